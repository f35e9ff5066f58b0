"""The model's room: load, LoRA, token tree, forward pass, sampling, label likelihood, pocket checkpoints."""

import logging

# Where bitsandbytes is installed, peft imports it, and on some CPUs it then tells everybody to install another package
# for a faster kernel, which `quantization` would not use. Set up here, before anything of this room imports peft.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit_forward" not in str(record.msg))
