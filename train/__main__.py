"""qo-train as a module: `torchrun --nproc-per-node N -m queryopt.train …` starts it N times."""

from queryopt.train.cli import main

if __name__ == "__main__":
    main(prog_name="qo-train")
