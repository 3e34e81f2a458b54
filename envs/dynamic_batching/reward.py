"""The reward of dynamic batching: minus what the requests' time and the batches' energy have cost meanwhile.

Between two decisions the cost grows by

    response_weight / rate_rps * (request seconds) + power_weight * (joules of the batch started)

where request seconds are the integral of the number of requests in the system, waiting or in service; a batch
is paid for when it starts. So the undiscounted return is minus

    response_weight / rate_rps * (sum of response times in s) + power_weight * (joules)

and per second, in the long run, minus `response_weight * mean response + power_weight * power` (Little's law:
the mean number of requests in the system is `rate_rps` times their mean response), what `servegym solve`
minimises.

>>> # 2 requests wait when a batch of 0.5 s starts; one more comes 0.125 s before its end
>>> seconds = request_seconds(2, np.array([0.25, 0.5, 1.375]), 2, 3, start_s=1.0, end_s=1.5)
>>> seconds
1.125
>>> 1.0 / 4.0 * seconds + 0.5 * 3.0  # weights 1 and 0.5, 4 requests a second, a batch of 3 joules
1.78125
"""

import numpy as np

from servegym.costmodels.native.jit import kernel


@kernel
def request_seconds(
    present: int, arrivals_s: np.ndarray, first: int, last: int, start_s: float, end_s: float
) -> float:
    """Integral of the number of requests in the system from `start_s` to `end_s`, during which none leaves.

    present: how many there are at the start; `arrivals_s[first:last]` come meanwhile.
    """
    seconds = present * (end_s - start_s)
    for request in range(first, last):
        seconds += end_s - arrivals_s[request]
    return seconds
