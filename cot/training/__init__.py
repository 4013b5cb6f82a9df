"""Training on rows of prompt and completion: supervised (`sft`) and by preference (`dpo`), on TRL's trainers.

Tokens, labels, data order, resumption, evaluation by the grader and the finished model folder are laconic's own; the
optimiser loop is TRL's. `config` is light to import, the other modules bring torch.
"""
