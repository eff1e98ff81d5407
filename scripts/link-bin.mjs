// Makes dist/main.js executable and links it as node_modules/.bin/couplet, as npm does for a package's dependents: in
// the project's own folder `npx couplet` would otherwise install the folder as a package first, and build it again.
import { chmodSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const at = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));

chmodSync(at('dist/main.js'), 0o755);
mkdirSync(at('node_modules/.bin'), { recursive: true });
rmSync(at('node_modules/.bin/couplet'), { force: true });
symlinkSync('../../dist/main.js', at('node_modules/.bin/couplet'));
