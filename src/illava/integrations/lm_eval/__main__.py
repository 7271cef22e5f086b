"""lm-eval's command line with the model ``illava``."""

from lm_eval.__main__ import cli_evaluate

from . import IllavaLM as IllavaLM

if __name__ == "__main__":
    cli_evaluate()
