"""Policy-gradient methods and head-wise KV caches."""
