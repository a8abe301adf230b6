"""The study: a sweep's trials in their Optuna storage. Queues and claims trials, chooses values, summarizes results."""
