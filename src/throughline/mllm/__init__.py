"""The model's room: load, LoRA, token tree, forward pass, sampling, label likelihood, pocket checkpoints."""
