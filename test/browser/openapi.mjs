// Holds an OpenAPI document against the specification's own schema: node openapi.mjs VALIDATOR FILE
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, file] = process.argv.slice(2);
const { main, exports } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
const entry = typeof exports === "string" ? exports : exports?.["."]?.import ?? exports?.["."] ?? main;
const { Validator } = await import(pathToFileURL(join(folder, typeof entry === "string" ? entry : entry.default)));
const validator = new Validator();
const result = await validator.validate(readFileSync(file, "utf8"));
console.log(JSON.stringify({ valid: result.valid, version: validator.version, errors: result.errors }));
process.exit(result.valid ? 0 : 1);
