"""`accelerate launch ... -m hjepa.train CONFIG... [key=value...]`: the arguments of `hjepa train`."""

import sys

from hjepa.cli import main

main(["train", *sys.argv[1:]])
