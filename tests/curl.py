"""What the README's commands need of curl where it is not installed; reports answers as the test expects."""

import argparse
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("-s", "-i", action="store_true")
parser.add_argument("-X", dest="method")
parser.add_argument("-H", dest="headers", action="append", default=[])
parser.add_argument("-d", dest="body")
parser.add_argument("url")
options = parser.parse_args()

request = Request(
    options.url,
    data=options.body and options.body.encode(),
    headers=dict(header.split(": ", 1) for header in options.headers),
    method=options.method,
)
try:
    answer = urlopen(request)
except HTTPError as error:
    answer = error
with answer:
    sys.stdout.write(answer.read().decode())
    sys.stderr.write(f"ANSWER {request.get_method()} {answer.status} {options.url}\n")
