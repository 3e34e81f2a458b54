"""What is read and written on the wire is what Envoy's own definitions of the messages say."""

import random
import warnings

import pytest

from servegym.agents.serving.plugins.endpoint_picker import messages as ours
from servegym.agents.serving.plugins.endpoint_picker.messages import read_part

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filters
    from envoy_data_plane.envoy.service.ext_proc import v3 as theirs
    from envoy_data_plane.google.protobuf import ListValue, Struct, Value

ENDPOINT = "x-gateway-destination-endpoint"
ENDPOINTS = "10.0.0.1:8000,10.0.0.2:8000"
REQUEST_ID = "df7c9120-dde6-4782-85b9-c46ed5826ee3"


def text(value: str) -> Value:
    return Value(string_value=value)


def struct(**fields: Value) -> Struct:
    return Struct(fields={name.replace("_", "-"): value for name, value in fields.items()})


def headers(**values: str) -> theirs.HttpHeaders:
    pairs = [
        core.HeaderValue(key=key.replace("_", "-"), raw_value=value.encode()) for key, value in values.items()
    ]
    return theirs.HttpHeaders(headers=core.HeaderMap(headers=pairs))


def read(**parts) -> ours.Part:
    return read_part(bytes(theirs.ProcessingRequest(**parts)))


def test_headers_are_read() -> None:
    part = read(request_headers=headers(X_Request_Id=REQUEST_ID, content_type="application/json"))
    assert part.kind == ours.REQUEST_HEADERS
    assert part.headers == {"x-request-id": REQUEST_ID, "content-type": "application/json"}
    assert (part.is_last, part.subset, part.served, part.request_body_mode) == (False, None, "", None)
    given = headers(x=1 * "y")
    given.end_of_stream = True
    given.headers.headers.append(core.HeaderValue(key="plain", value="as text"))
    part = read(response_headers=given)
    assert (part.kind, part.is_last) == (ours.RESPONSE_HEADERS, True)
    assert part.headers == {"x": "y", "plain": "as text"}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 100_000, 3_000_000])
def test_bodies_are_read(size: int) -> None:
    body = bytes(random.Random(size).randbytes(size))
    part = read(request_body=theirs.HttpBody(body=body, end_of_stream=True))
    assert (part.kind, part.body, part.is_last) == (ours.REQUEST_BODY, body, True)
    part = read(response_body=theirs.HttpBody(body=body))
    assert (part.kind, part.body, part.is_last) == (ours.RESPONSE_BODY, body, False)
    part = read(response_body=theirs.HttpBody(body=body, end_of_stream_without_message=True))
    assert part.is_last


def test_trailers_are_read() -> None:
    assert read(request_trailers=theirs.HttpTrailers())[:4] == (ours.REQUEST_TRAILERS, {}, b"", True)
    assert read(response_trailers=theirs.HttpTrailers()).kind == ours.RESPONSE_TRAILERS


@pytest.mark.parametrize("request_mode", range(5))
@pytest.mark.parametrize("response_mode", range(5))
def test_how_bodies_are_sent_is_read(request_mode: int, response_mode: int) -> None:
    mode = filters.ProcessingModeBodySendMode
    said = theirs.ProtocolConfiguration(
        request_body_mode=mode(request_mode), response_body_mode=mode(response_mode)
    )
    part = read(request_headers=headers(a="b"), protocol_config=said)
    assert (part.request_body_mode, part.response_body_mode) == (request_mode, response_mode)


def metadata(namespace: str, **fields: Value) -> core.Metadata:
    other = struct(number=Value(number_value=1.5), nothing=Value(bool_value=True))
    return core.Metadata(filter_metadata={"other": other, namespace: struct(**fields)})


@pytest.mark.parametrize(
    ("value", "subset"),
    [
        (Value(list_value=ListValue(values=[text("a:1"), text("b:2")])), ("a:1", "b:2")),
        (Value(list_value=ListValue(values=[])), ()),
        (Value(list_value=ListValue(values=[Value(number_value=3.0), text("a:1")])), ("a:1",)),
        (text("a:1, b:2"), ("a:1", "b:2")),
        (text(""), ()),
    ],
)
def test_a_subset_is_read(value: Value, subset: tuple[str, ...]) -> None:
    said = metadata("envoy.lb.subset_hint", **{"x-gateway-destination-endpoint-subset": value})
    assert read(request_headers=headers(a="b"), metadata_context=said).subset == subset


def test_no_subset_is_not_an_empty_one() -> None:
    said = metadata("envoy.lb.subset_hint", something_else=text("a:1"))
    assert read(request_headers=headers(a="b"), metadata_context=said).subset is None


def test_who_served_is_read() -> None:
    said = metadata("envoy.lb", **{"x-gateway-destination-endpoint-served": text("a:1")})
    assert read(response_headers=headers(a="b"), metadata_context=said).served == "a:1"


@pytest.mark.parametrize(
    ("part", "name"),
    [(ours.REQUEST_HEADERS, "request_headers"), (ours.REQUEST_BODY, "request_body")],
)
def test_a_decision_is_written(part: int, name: str) -> None:
    option = core.HeaderValueOption(
        header=core.HeaderValue(key=ENDPOINT, raw_value=ENDPOINTS.encode()),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    common = theirs.CommonResponse(
        clear_route_cache=True, header_mutation=theirs.HeaderMutation(set_headers=[option])
    )
    kind = theirs.HeadersResponse if name == "request_headers" else theirs.BodyResponse
    inner = Struct(fields={ENDPOINT: text(ENDPOINTS)})
    expected = theirs.ProcessingResponse(
        **{name: kind(response=common)},
        dynamic_metadata=Struct(fields={"envoy.lb": Value(struct_value=inner)}),
    )
    assert ours.go_to(part, ENDPOINTS) == bytes(expected)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (ours.REQUEST_HEADERS, "request_headers"),
        (ours.RESPONSE_HEADERS, "response_headers"),
        (ours.REQUEST_BODY, "request_body"),
        (ours.RESPONSE_BODY, "response_body"),
        (ours.REQUEST_TRAILERS, "request_trailers"),
        (ours.RESPONSE_TRAILERS, "response_trailers"),
    ],
)
def test_going_on_is_written(part: int, name: str) -> None:
    answer = theirs.ProcessingResponse.parse(ours.go_on(part))
    said = {key for key in dir(answer) if key.startswith(("request_", "response_")) and getattr(answer, key)}
    assert getattr(answer, name) is not None
    assert said - {"request_drain"} == ({name} if getattr(answer, name) else set())
    if not name.endswith("trailers"):
        assert getattr(answer, name).response is not None


@pytest.mark.parametrize("size", [0, 1, 59_999, 60_000, 60_001, 200_000])
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize(
    ("part", "name"), [(ours.REQUEST_BODY, "request_body"), (ours.RESPONSE_BODY, "response_body")]
)
def test_a_streamed_body_is_written_in_chunks(size: int, is_last: bool, part: int, name: str) -> None:
    body = random.Random(size).randbytes(size)
    chunks = [
        getattr(theirs.ProcessingResponse.parse(each), name).response.body_mutation.streamed_response
        for each in ours.same_body(part, body, is_last)
    ]
    assert b"".join(each.body for each in chunks) == body
    assert [each.end_of_stream for each in chunks] == [False] * (len(chunks) - 1) + [is_last]
    assert all(len(each.body) <= 1 << 16 for each in chunks)


@pytest.mark.parametrize("status", [408, 413, 429, 431, 503])
def test_a_refusal_is_written(status: int) -> None:
    answer = theirs.ProcessingResponse.parse(ours.refusal(status, "why")).immediate_response
    assert answer.status.code == status
    assert b'"why"' in answer.body
    set_headers = {each.header.key: each.header.raw_value for each in answer.headers.set_headers}
    assert set_headers["content-type"] == b"application/json"
    assert ("retry-after" in set_headers) == (status in (429, 503))
