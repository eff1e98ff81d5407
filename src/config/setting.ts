import { isIP } from 'node:net';
import { z } from 'zod';
import { canonicalAddress } from '../core/canonical-address.ts';

/** What is known of one setting besides its zod type; kept in {@link settingRegistry}, beside the type. */
export interface SettingMeta {
  readonly description: string;
  /** One phrase that ends "must be …", for errors and the reference page. */
  readonly allowed: string;
  /** How a text (environment, flag) becomes the value that the zod type checks. */
  readonly form: 'text' | 'number' | 'boolean' | 'list' | 'numbers' | 'object';
  /** The value's name in help texts, `HOST:PORT`. */
  readonly placeholder: string;
  /** The flag's name without the dashes where it differs from the key path. */
  readonly flag?: string;
  /** True where SIGHUP applies a new value to the running server (R40). */
  readonly reloadable: boolean;
  /** True where the value must never be printed. */
  readonly secret: boolean;
  /** The default in words where it is worked out from other settings, or where absence has a meaning of its own. */
  readonly derivedDefault?: string;
}

export const settingRegistry = z.registry<SettingMeta>();

/** What a setting that maps names to settings takes. */
export interface TableMeta {
  readonly name: RegExp;
  /** What a name must be, in words. */
  readonly names: string;
  readonly shape: Record<string, z.ZodType>;
}

/** By the table's type. Not in the registry: its types would rewrite the zod types in the shape. */
export const tableMetas = new Map<z.ZodType, TableMeta>();

/** What the definition of a setting says besides its type. */
export interface SettingText {
  readonly about: string;
  readonly flag?: string;
  readonly placeholder?: string;
  readonly reloadable?: boolean;
  readonly secret?: boolean;
  readonly derivedDefault?: string;
  /** What 0 means where a number may be 0; `off` unless told otherwise. */
  readonly zero?: string;
}

/** The largest delay a Node.js timer takes (2^31 - 1 ms); a longer one would fire at once. */
export const maxTimerMs = 2_147_483_647;
export const maxCount = 1_000_000_000;
export const anyPath = /^[^\0]{1,4096}$/;
export const path = 'a path of 1 to 4096 characters';

function define<T extends z.ZodType>(
  type: T,
  form: SettingMeta['form'],
  placeholder: string,
  allowed: string,
  text: SettingText,
): T {
  const described = type.describe(text.about);
  settingRegistry.add(described, {
    description: text.about,
    allowed,
    form,
    placeholder: text.placeholder ?? placeholder,
    reloadable: text.reloadable ?? false,
    secret: text.secret ?? false,
    ...(text.flag === undefined ? {} : { flag: text.flag }),
    ...(text.derivedDefault === undefined ? {} : { derivedDefault: text.derivedDefault }),
  });
  return described;
}

/** A whole number from `min` to `max`; its unit stands in the setting's name. */
export function whole(initial: number, min: number, max: number, text: SettingText) {
  const zero = min === 0 ? ` (0: ${text.zero ?? 'off'})` : '';
  const type = z.int().min(min).max(max).default(initial);
  return define(type, 'number', 'N', `a whole number from ${min} to ${max}${zero}`, text);
}

/** A whole number without a default of its own: worked out from other settings once all are known. */
export function derivedWhole(min: number, max: number, text: SettingText) {
  return define(z.int().min(min).max(max).optional(), 'number', 'N', `a whole number from ${min} to ${max}`, text);
}

export function onOff(initial: boolean, text: SettingText) {
  return define(z.boolean().default(initial), 'boolean', 'true|false', 'true or false', text);
}

export function choice<const T extends readonly [string, ...string[]]>(
  values: T,
  initial: T[number],
  text: SettingText,
) {
  const type = z.enum(values).default(initial as never);
  const allowed = values.length === 1 ? `${values[0]}` : `one of ${values.join(', ')}`;
  return define(type, 'text', values.join('|'), allowed, text);
}

/** One of a few words, or absent. */
export function optionalChoice<const T extends readonly [string, ...string[]]>(values: T, text: SettingText) {
  return define(z.enum(values).optional(), 'text', values.join('|'), `one of ${values.join(', ')}`, text);
}

export function optionalOnOff(text: SettingText) {
  return define(z.boolean().optional(), 'boolean', 'true|false', 'true or false', text);
}

/** A text with a default. */
export function words(initial: string, pattern: RegExp, placeholder: string, allowed: string, text: SettingText) {
  return define(z.string().regex(pattern).default(initial), 'text', placeholder, allowed, text);
}

/** A text that may be absent. */
export function optionalWords(pattern: RegExp, placeholder: string, allowed: string, text: SettingText) {
  return define(z.string().regex(pattern).optional(), 'text', placeholder, allowed, text);
}

/** A text of a form that `check` knows, or absent. */
export function optionalMatching(
  check: (value: string) => boolean,
  placeholder: string,
  allowed: string,
  text: SettingText,
) {
  return define(z.string().refine(check).optional(), 'text', placeholder, allowed, text);
}

/** A host and a port, loopback by default; port 0 lets the system choose a free one. */
export function address(initial: string, text: SettingText) {
  const type = z
    .string()
    .regex(/:[0-9]{1,5}$/)
    .refine((value) => parseListen(value) !== undefined)
    .default(initial);
  return define(type, 'text', 'HOST:PORT', 'HOST:PORT or [IPV6]:PORT with a port from 0 to 65535 (0: any free)', text);
}

/** A list; as text its elements are separated by commas, or it is a JSON array. */
export function list(
  element: (value: string) => boolean,
  placeholder: string,
  allowed: string,
  text: SettingText,
  initial: readonly string[] = [],
): z.ZodDefault<z.ZodArray<z.ZodString>> {
  const type = z.array(z.string().refine(element)).default([...initial]);
  return define(type, 'list', placeholder, allowed, text);
}

/** A list that may be absent, which is not the same as empty: an empty one is refused. */
export function optionalList(
  element: (value: string) => boolean,
  placeholder: string,
  allowed: string,
  text: SettingText,
) {
  return define(z.array(z.string().refine(element)).min(1).optional(), 'list', placeholder, allowed, text);
}

/** A list of some of `values` that may be absent; an empty one is refused. */
export function optionalNumbers(values: readonly number[], text: SettingText) {
  const type = z.array(z.literal(values)).min(1).optional();
  return define(type, 'numbers', 'N,…', `a list of one or more of ${values.join(', ')}`, text);
}

/** A map of names to settings of their own; as text it is JSON. `names` says what a name must be. */
export function table<T extends z.ZodRawShape & Record<string, z.ZodType>>(
  what: string,
  name: RegExp,
  names: string,
  shape: T,
  text: SettingText,
) {
  const type = z.record(z.string().regex(name), z.strictObject(shape)).default({});
  const defined = define(type, 'object', 'JSON', `a map of ${what} (${names}) to their settings`, text);
  tableMetas.set(defined, { name, names, shape });
  return defined;
}

/** Takes `HOST:PORT` or `[IPV6]:PORT` apart; `undefined` where the text is neither. */
export function parseListen(value: string): { readonly host: string; readonly port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})$/.exec(value);
  if (match === null) return undefined;
  const [, ipv6, name, digits] = match;
  const port = Number(digits);
  if (port > 65_535 || (ipv6 !== undefined && isIP(ipv6) !== 6)) return undefined;
  return { host: (ipv6 ?? name)!, port };
}

/** A host in its one spelling: `0` is `0.0.0.0`, `[::0]` and `::ffff:0.0.0.0` are wildcards too, names are lower case. */
export function canonicalHost(host: string): string {
  const url = `http://${host.includes(':') ? `[${host}]` : host}`;
  const { hostname } = URL.canParse(url) ? new URL(url) : { hostname: host.toLowerCase() };
  const plain = hostname.replace(/^\[(.*)\]$/, '$1');
  return canonicalAddress(plain) ?? plain;
}

/** True for the address that stands for all of a machine's addresses. */
export function isWildcard(host: string): boolean {
  return ['0.0.0.0', '::'].includes(canonicalHost(host));
}

/** True for an address or a network in CIDR form, `10.0.0.0/8` or `::1`. */
export function isNetwork(value: string): boolean {
  const [host, prefix, ...rest] = value.split('/');
  const family = isIP(host!);
  if (family === 0 || rest.length > 0) return false;
  return prefix === undefined || (/^[0-9]{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128));
}

/** True for what a browser sends in an Origin header, `https://host` or `https://host:8443`; never for `null`. */
export function isOrigin(value: string): boolean {
  if (!/^https?:\/\/[^/]+$/.test(value) || !URL.canParse(value)) return false;
  return new URL(value).origin === value;
}

/** True for `host`, `host:8443`, `10.0.0.1:443` or `[::1]:443`. */
export function isAgentHost(value: string): boolean {
  const isLower = value === value.toLowerCase();
  return isLower && (/^[a-z0-9.-]{1,253}$/.test(value) || (parseListen(value)?.port ?? 0) > 0);
}
