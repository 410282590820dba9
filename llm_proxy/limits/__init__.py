"""Windows of requests and model tokens: pure arithmetic, two stores, and the gate that the pipeline asks."""
