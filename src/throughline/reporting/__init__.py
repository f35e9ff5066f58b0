"""What a run found: tables, figures and one self-contained page. Reads run folders only; never loads a model."""
