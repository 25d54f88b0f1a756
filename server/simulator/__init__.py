"""The parts of the simulated vLLM server behind `python -m server.sim`."""
