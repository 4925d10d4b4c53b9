"""The parts of `compare`: who takes part and what is tuned, the protocol, the runs, what came out, and how it is written."""
