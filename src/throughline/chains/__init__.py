"""What a reasoning chain looks like, how it is asked for, read, judged and recorded. Knows no torch; users
import the files directly, e.g. `from throughline.chains.parsing import parse_chain`."""
