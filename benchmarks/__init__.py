"""Speed and memory against peers: one file per question, each prints one table and writes one JSON object."""
