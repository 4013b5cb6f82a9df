"""The when-to-reason router: which route (thinking, not thinking, a budget, any method) a question is sent down."""
