import { argv, stdout } from 'node:process';
import { pathToFileURL } from 'node:url';
import { type Member, type Setting, settings } from './schema.ts';

/** The default as the reference page and the help texts show it; empty where there is none. */
export function defaultText({ initial, derivedDefault }: Setting): string {
  if (derivedDefault !== undefined) return derivedDefault;
  if (initial === undefined) return '';
  return typeof initial === 'string' ? initial : JSON.stringify(initial);
}

const intro = `# Settings

Made from \`src/config/schema.ts\` by \`node --import tsx src/config/docs.ts > docs/reference/config.md\`; a test holds
the two equal.

A setting is a key of the configuration file (YAML or JSON, \`--config FILE\` or \`COUPLET_CONFIG\`), an environment
variable and a flag of \`couplet serve\`. Order: defaults, file, environment, flags; the later one wins. In the file a key
path is nested: \`relay.holdMs\` is \`holdMs\` under \`relay\`. In variables and flags a list is separated by commas and a map
is JSON; an empty variable counts as not set. Relative paths start at the working directory. Secrets belong into a file
or a variable: flags can be read by other users of the machine.

An unknown key, an unknown \`COUPLET_…\` variable and a value that is not allowed are errors: \`couplet serve\` names the
key, the value and what is allowed, and exits 2 before anything listens; \`--check-config\` does only that. On SIGHUP the
same sources are read again. Settings marked _reload_ then count at once, for running sessions as far as they can; a
change of any other is logged and waits for a restart; a reload with an error keeps the old configuration.
`;

const onChange = ({ reloadable }: Member) => (reloadable ? 'reload' : 'restart');

function memberLine(member: Member): string {
  return `- \`${member.key}\`: ${member.description} Allowed: ${member.allowed}. On change: ${onChange(member)}.\n`;
}

/** docs/reference/config.md as it must be. */
export function configReference(): string {
  let page = intro;
  let group: string | undefined;
  for (const setting of settings) {
    const own = setting.key.includes('.') ? setting.key.slice(0, setting.key.indexOf('.')) : 'top level';
    if (own !== group) page += `\n## ${own}\n`;
    group = own;
    const initial = defaultText(setting);
    page += `
### \`${setting.key}\`

${setting.description}

- allowed: ${setting.allowed}
- default: ${initial === '' ? 'none' : setting.derivedDefault === undefined ? `\`${initial}\`` : initial}
- variable: \`${setting.env}\`
- flag: \`${setting.option} ${setting.placeholder}\`
- on change: ${onChange(setting)}
`;
    if (setting.members.length > 0)
      page += `\nBelow each name may stand:\n\n${setting.members.map(memberLine).join('')}`;
  }
  return page;
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) stdout.write(configReference());
