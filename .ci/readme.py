"""Print the code block of the README that follows `<!-- ci: NAME -->`."""

import re
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
found = re.search(rf"<!-- ci: {re.escape(sys.argv[1])} -->\s*```bash\n(.*?)```", text, re.S)
sys.exit(f"README.md has no block '{sys.argv[1]}'") if not found else print(found[1], end="")
