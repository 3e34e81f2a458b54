import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.splitwise import read_splitwise

HEADER = (
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,"
    "e2e_time,tensor_parallel\n"
)


def test_one_table_per_model_and_device_in_seconds(tmp_path):
    path = tmp_path / "perf_model.csv"
    path.write_text(
        HEADER
        + "llama2-70b,a100-80gb,512,4,128,1.0,0.7,200,50,7000,2\n"
        + "llama2-70b,h100-80gb,256,1,64,0.0,0.0,80,40,3000,8\n"
        + "llama2-70b,a100-80gb,1024,1,32,0.9,0.6,300,60,2000,4\n"
    )
    a100, h100 = read_splitwise(path)
    assert (a100.model, a100.device, h100.device) == ("llama2-70b", "a100_sxm", "h100_sxm")
    assert a100.prompt_tokens.tolist() == [512, 1024]
    assert a100.batch_size.tolist() == [4, 1]
    assert a100.output_tokens.tolist() == [128, 32]
    assert a100.tensor_parallel.tolist() == [2, 4]
    assert a100.prompt_s == pytest.approx([0.2, 0.3])
    assert a100.token_s == pytest.approx([0.05, 0.06])
    assert a100.average_power == pytest.approx([0.7, 0.6])
    assert np.isnan(h100.average_power).all() and np.isnan(h100.peak_power).all()


@pytest.mark.parametrize(
    "text, said",
    [
        (HEADER + "m,h,1,1,1,1,1,0,1,1,1\n", r"row 1: prompt_time is 0, must be finite and above 0"),
        (HEADER + "m,h,1,1,1,1,1,1,-3,1,1\n", r"row 1: token_time is -3"),
        ("model,hardware\nm,h\n", r"column tensor_parallel, prompt_size, .* is missing"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, said):
    path = tmp_path / "perf_model.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_splitwise(path)


def test_the_published_table(real_data):
    a100, h100 = read_splitwise(real_data("kernels/splitwise_sim/perf_model.csv.gz"))
    assert (len(a100), len(h100)) == (315, 315)
    for each in (a100, h100):  # one decode iteration reads 137 GB of weights once, on 2, 4 or 8 GPUs
        bandwidth = 137e9 / each.tensor_parallel / each.token_s
        assert np.all((bandwidth > 0.1e12) & (bandwidth < 3.35e12))
