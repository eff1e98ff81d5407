import { levelOf } from '../codes.ts';
import { safeText } from '../safe-text.ts';
import type { AuditLogger, EventRecord, EventSink, EventValue } from '../sink.ts';

function safeValue(value: EventValue): EventValue {
  if (typeof value === 'string') return safeText(value);
  if (typeof value === 'object') return value.map((item) => (typeof item === 'string' ? safeText(item) : item));
  return value;
}

/**
 * Events as log lines, at the level of their code. The logger writes `time` and `msg` itself; strings reach it with
 * control and hidden characters already made visible, because a logger's JSON escapes only some of them (fault 34).
 */
export function createLogSink(logger: AuditLogger): EventSink {
  return {
    name: 'log',
    write(event: EventRecord): void {
      const level = levelOf(event.code);
      if (logger.isLevelEnabled?.(level) === false) return;
      const fields: Record<string, EventValue> = {};
      for (const [name, value] of Object.entries(event)) {
        if (name !== 'time' && name !== 'msg') fields[name] = safeValue(value);
      }
      logger[level](fields, safeText(event.msg));
    },
  };
}
