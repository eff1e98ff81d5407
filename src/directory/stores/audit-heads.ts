import type { Database } from '../database.ts';
import type { AuditHead, AuditHeads } from '../directory.ts';
import { badValue, quote } from '../errors.ts';

/** Newest files of a log whose heads are kept, as many as in its folder; later files vouch for older ones. */
const maxFiles = 256;
const logForm = /^[A-Za-z0-9_-]{1,64}$/;
const macForm = /^([0-9a-f]{64})?$/;

/** [R31] How far the files of event logs reach, out of reach of who can only write to a log's folder. */
export class AuditHeadStore implements AuditHeads {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async note(log: string, heads: readonly AuditHead[]): Promise<void> {
    if (!logForm.test(log)) throw badValue(`event log ${quote(log)}: allowed are 1 to 64 letters, digits, "_" and "-"`);
    // One row for each file, and by its number: processes that write at once then lock rows in the same order.
    const byFile = new Map<number, AuditHead>();
    for (const head of heads) {
      checkHead(head);
      if (head.line > (byFile.get(head.file)?.line ?? -1)) byFile.set(head.file, head);
    }
    const newest = [...byFile.values()].sort((a, b) => a.file - b.file).slice(-maxFiles);
    if (newest.length === 0) return;
    const rows = newest.map(({ file, line, mac, closed }) => ({ log, file, line, mac, closed: closed ? 1 : 0 }));
    // Relaxed: what a power cut takes is noted again, or stands in the log's folder.
    await this.#database.relaxed(async (tx) => {
      await tx
        .insertInto('audit_heads')
        .values(rows)
        .onConflict((conflict) =>
          conflict
            .columns(['log', 'file'])
            .doUpdateSet(({ ref }) => ({
              line: ref('excluded.line'),
              mac: ref('excluded.mac'),
              closed: ref('excluded.closed'),
            }))
            // Never lowered, and what was noted of a line first stays: it was there.
            .whereRef('excluded.line', '>', 'audit_heads.line'),
        )
        .execute();
      const tooOld = tx
        .selectFrom('audit_heads')
        .select('file')
        .where('log', '=', log)
        .orderBy('file', 'desc')
        .limit(1)
        .offset(maxFiles);
      await tx.deleteFrom('audit_heads').where('log', '=', log).where('file', '<=', tooOld).execute();
    });
  }

  async list(log: string): Promise<AuditHead[]> {
    if (!logForm.test(log)) return [];
    const rows = await this.#database.read((db) =>
      db.selectFrom('audit_heads').selectAll().where('log', '=', log).orderBy('file', 'desc').limit(maxFiles).execute(),
    );
    return rows.map(({ file, line, mac, closed }) => ({ file, line, mac, closed: closed === 1 }));
  }
}

function checkHead({ file, line, mac }: AuditHead): void {
  if (Number.isSafeInteger(file) && file >= 1 && Number.isSafeInteger(line) && line >= 0 && macForm.test(mac)) return;
  throw badValue(
    `head of file ${String(file)}, line ${String(line)}: allowed are whole numbers and a MAC of 64 hex digits`,
  );
}
