// Builds dist/ from src/. With --check: fails when what is committed is not what a build makes.
import { build } from "esbuild";
import { mkdtempSync, readFileSync, copyFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const check = process.argv.includes("--check");
const out = check ? mkdtempSync(join(tmpdir(), "console-")) : join(here, "dist");
mkdirSync(out, { recursive: true });
await build({
  entryPoints: [join(here, "src/console.jsx")],
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "inline",
  charset: "utf8",
  absWorkingDir: here,
});
for (const name of ["index.html", "icon.svg"]) copyFileSync(join(here, "src", name), join(out, name));
if (check) {
  const stale = ["console.js", "console.css", "index.html", "icon.svg"].filter((name) => !readFileSync(join(out, name)).equals(readFileSync(join(here, "dist", name))));
  if (stale.length) {
    console.error(`stale: ${stale.join(", ")}; run \`npm ci && npm run build\` in proxy/console and commit dist/`);
    process.exit(1);
  }
}
