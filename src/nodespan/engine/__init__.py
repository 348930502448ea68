"""Engines: the pipeline contract, llama.cpp in this process, servers of OpenAI's protocol, and their measurements."""
