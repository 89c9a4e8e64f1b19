/**
 * Unpacks the Chromium of @sparticuz/chromium, with its libraries and fonts, and writes a script that runs it:
 *
 *     TMPDIR=<folder> node unpack.mjs <script>
 */

import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import chromium, { inflate } from "@sparticuz/chromium";

const [script] = process.argv.slice(2);
const folder = process.env.TMPDIR;

await rm(folder, { recursive: true, force: true });
await mkdir(folder);
const program = await chromium.executablePath();
const fonts = join(folder, "fonts");
// The package unpacks the libraries only where it recognises AWS Lambda.
const libraries = await inflate(
  fileURLToPath(new URL("../bin/al2023.tar.br", import.meta.resolve("@sparticuz/chromium"))),
);
const configuration = join(fonts, "fonts.conf");
await writeFile(configuration, (await readFile(configuration, "utf8")).replaceAll("/tmp/", `${folder}/`));
// Last, because the script's existence says that everything is unpacked.
await writeFile(
  script,
  `#!/bin/sh
LD_LIBRARY_PATH='${libraries}/lib' FONTCONFIG_PATH='${fonts}' exec '${program}' "$@"
`,
  { mode: 0o755 },
);
