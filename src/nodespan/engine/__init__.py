"""What runs a model: the pipeline contract, llama.cpp in this process, and what an engine measures."""
