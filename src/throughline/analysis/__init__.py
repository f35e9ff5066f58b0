"""The paper's analyses: why reasoning is hard to learn, and what changes when it is learnt."""
