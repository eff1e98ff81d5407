import { type Command, Option } from 'commander';
import { defaultText } from '../config/docs.ts';
import { type Setting, settings } from '../config/schema.ts';

/** What the command line of `couplet serve` says: texts, not yet checked; `loadConfig` takes `file` and `flags`. */
export interface ServeArguments {
  readonly file: string | undefined;
  /** By key path of the setting. */
  readonly flags: Readonly<Record<string, string>>;
  readonly checkConfig: boolean;
}

/** A switch may stand alone (`--public-metrics`) or have a value; everything else has one. */
function optionOf(setting: Setting): Option {
  const value = setting.form === 'boolean' ? `[${setting.placeholder}]` : `<${setting.placeholder}>`;
  const initial = defaultText(setting);
  const option = new Option(
    `${setting.option} ${value}`,
    `${setting.description} [${setting.env}]${initial === '' ? '' : ` (default: ${initial})`}`,
  );
  return setting.form === 'boolean' ? option.preset('true') : option;
}

/** Puts `--config`, `--check-config` and a flag for every setting on the command. */
export function addServeOptions(command: Command): Command {
  command.option('--config <FILE>', 'Configuration file, YAML or JSON. [COUPLET_CONFIG]');
  command.option('--check-config', 'Check the configuration, then exit: 0 where it is good, 2 where it is not.');
  for (const setting of settings) command.addOption(optionOf(setting));
  return command;
}

/** Reads what {@link addServeOptions} put there, after commander has parsed the arguments. */
export function readServeArguments(command: Command): ServeArguments {
  const given = command.opts<Record<string, unknown>>();
  const flags: Record<string, string> = {};
  for (const setting of settings) {
    const value = given[optionOf(setting).attributeName()];
    if (typeof value === 'string') flags[setting.key] = value;
  }
  return {
    file: typeof given.config === 'string' ? given.config : undefined,
    flags,
    checkConfig: given.checkConfig === true,
  };
}
