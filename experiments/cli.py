"""The console command `servegym`: finds the command meant and leaves the rest to its own file.

Nothing heavy is imported before a command is known, so that the usage comes at once.
"""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple


class Command(NamedTuple):
    """A line of the usage."""

    purpose: str
    example: str  # words after `servegym`


COMMANDS = {
    "list": Command("what there is to choose from", "list"),
    "simulate": Command(
        "run one router on one workload, write every request's times",
        "simulate scenario=azure_conv_8xh100 router=jsq out=runs/jsq",
    ),
    "study": Command(
        "very many episodes, over processes or a Ray cluster, into Parquet",
        "study scenario=azure_conv_8xh100 router=jsq episodes=100",
    ),
    "replay": Command(
        "simulate again with every iteration recorded: a page of the episode, to zoom and ask",
        "replay runs/jsq --perfetto runs/trace.json.gz",
    ),
    "train": Command(
        "train a router, or go on where a killed run stopped",
        "train scenario=azure_conv_8xh100 agent=ppo_gnn run_dir=runs/demo",
    ),
    "runs": Command("list, show, compare or prune folders of results", "runs list"),
    "evaluate": Command("compare policies on requests they never saw", "evaluate run_dir=runs/demo"),
    "goodput": Command(
        "the largest rate at which a policy keeps what requests were promised",
        "goodput scenario=resnet50_8gpu policy=symphony",
    ),
    "place": Command(
        "which replicas to make of a number of GPUs, for the most goodput",
        "place scenario=disaggregated_4p4d gpus=8",
    ),
    "bounds": Command(
        "what no policy can beat, and how near routers come", "bounds scenario=azure_conv_8xh100"
    ),
    "pairs": Command("the best router and scheduler together", "pairs scenario=azure_conv_4xh100"),
    "tune": Command(
        "look for the parameters of a heuristic that serve training traffic best",
        "tune -m sweeper=optuna scenario=azure_conv_8xh100 scheduler=larry 'scheduler.w_wait=interval(0,5)'",
    ),
    "solve": Command(
        "the optimal batching of one server, beside simple policies", "solve scenario=inoue_v100"
    ),
    "report": Command(
        "one page of tables and figures about any runs",
        "report runs/demo runs/jsq out=runs/report",
    ),
    "emulate": Command(
        "emulated GPU workers that answer as vLLM does, on the clock of a cost model",
        "emulate scenario=azure_conv_8xh100 port=9100 time_scale=4",
    ),
    "export": Command("write a trained router as ONNX for a serving system", "export run_dir=runs/demo"),
    "policy": Command("inspect, verify, time or sign an exported policy", "policy verify policy=zoo:router"),
    "deploy": Command(
        "the file that tells a serving system which policy decides",
        "deploy scenario=azure_conv_8xh100 policy=zoo:router out=serving.json",
    ),
    "live": Command(
        "routers as they run in front of emulated workers, beside what is foretold",
        "live scenario=azure_conv_8xh100 python.envoy=ENVIRONMENT/bin/python",
    ),
    "decisions": Command(
        "what a router in a real serving system has decided, as data to learn from",
        "decisions log=decisions.jsonl out=decisions.npz",
    ),
    "explain": Command(
        "what a trained policy looks at, and whom it agrees with",
        "explain policy=runs/demo scenario=azure_conv_8xh100 out=runs/explanation",
    ),
    "load": Command(
        "replay a scenario's traffic against any OpenAI endpoint",
        "load scenario=azure_conv_8xh100 target=http://127.0.0.1:9100 requests=2000 time_scale=4",
    ),
    "predictor": Command(
        "train a predictor of output lengths, compare it with simple ones",
        "predictor scenario=azure_conv_8xh100 loss=listmle",
    ),
    "profile": Command("measure operators and decoder layers on this GPU", "profile out=runs/profile"),
    "calibrate": Command(
        "fit a cost model to kernel timings", "calibrate data=runs/profile out=runs/roofline.json"
    ),
    "validate": Command("how far the cost models are from measurements", "validate peers"),
    "data": Command("list, fetch and verify public traces and measurements", "data list"),
    "bench": Command("measure the simulator, the environments and learning", "bench simulator"),
}

COMPLETION_FLAGS = ("-sc", "--shell-completion", "--shell_completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:
        print("servegym: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(f"servegym {importlib.metadata.version('servegym')}")
        return 0
    if words[0] in COMPLETION_FLAGS:
        return _complete(words)
    command, *rest = words
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        print(
            f"servegym: error: no command {command!r}: {meant}There are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    as_json = "--json" in rest
    rest = [word for word in rest if word != "--json"]
    if command == "list":
        from servegym.experiments.list_choices import run_list

        return run_list(rest, as_json)
    from servegym.experiments.hydra_app import run_hydra_command

    return run_hydra_command(command, rest, as_json)


def usage() -> str:
    """What `servegym --help` prints."""
    lines = ["usage: servegym COMMAND [KEY=VALUE ...] [--json]", ""]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<9} {command.purpose}", f"            servegym {command.example}"]
    lines += [
        "",
        "  --json             print exactly one JSON object on standard output",
        "  COMMAND --help     keys and choices of one command",
        "  COMMAND --cfg job  its whole configuration, without running it",
        "  COMMAND -m ...     one job for each combination of values: seed=0,1,2",
        "  --version          the version",
        "",
        'Completion of keys and choices: eval "$(servegym -sc install=bash)"',
    ]
    return "\n".join(lines)


def _complete(words: list[str]) -> int:
    """Shell completion, which is Hydra's once the command is known. Shells pass the line in COMP_LINE."""
    from servegym.experiments.hydra_app import policies_for, run_hydra_command

    if not any(word.startswith("query=") for word in words):
        return run_hydra_command("simulate", words, as_json=False)  # install or uninstall: the same for all
    program, *typed = os.environ.get("COMP_LINE", "").split(" ")
    if len(typed) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith("".join(typed))))
    elif typed[-1].startswith("policy=") and (known := policies_for(typed[0], typed[1:])):
        print(" ".join(f"policy={name}" for name in known if f"policy={name}".startswith(typed[-1])))
    elif typed[0] in COMMANDS and typed[0] != "list":
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
        return run_hydra_command(typed[0], words, as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
