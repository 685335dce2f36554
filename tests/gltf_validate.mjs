// node gltf_validate.mjs PACKAGE_FOLDER FILE... : one JSON list, a report of the Khronos glTF validator for each file.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [folder, ...files] = process.argv.slice(2);
const validator = createRequire(import.meta.url)(folder);
const reports = [];
for (const file of files) {
  const report = await validator.validateBytes(new Uint8Array(readFileSync(file)), { uri: file, maxIssues: 0 });
  reports.push({ file, issues: report.issues, info: report.info });
}
console.log(JSON.stringify(reports));
