"""An endpoint picker: tells Envoy, and gateways that process externally as it does, where requests go.

    python -m servegym.agents.serving.plugins.endpoint_picker --config serving.json --replicas ip:port,...

It speaks the endpoint picker protocol 1.0.0 of the Gateway API inference extension, so that it stands where
llm-d, Istio, GKE or KServe have their pickers, and beside a bare Envoy (docs/serving/envoy.md).
"""
