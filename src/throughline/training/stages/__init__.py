"""The stages that a method is made of, one file each: supervised fine-tuning, rounds of self-labelling."""
