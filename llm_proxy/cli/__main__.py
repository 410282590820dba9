"""`python -m llm_proxy.cli`: the console script, where its folder is not on the path."""

from llm_proxy.cli import main

main()
