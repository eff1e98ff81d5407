import { type ColumnDefinitionBuilder, type Kysely, sql } from 'kysely';

const required = (column: ColumnDefinitionBuilder) => column.notNull();
const key = (column: ColumnDefinitionBuilder) => column.primaryKey().notNull();
const to = (reference: string) => (column: ColumnDefinitionBuilder) => column.references(reference).onDelete('cascade');
const requiredTo = (reference: string) => (column: ColumnDefinitionBuilder) => to(reference)(column).notNull();

/** @param sqlite false: PostgreSQL. What differs is how numbers count up, and who needs a table of changes. */
export const initial = (sqlite: boolean) => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const { schema } = db;
    const counted = (table: string) =>
      sqlite
        ? schema.createTable(table).addColumn('seq', 'integer', (column) => column.primaryKey().autoIncrement())
        : schema.createTable(table).addColumn('seq', 'bigserial', (column) => column.primaryKey());
    const index = (table: string, columns: string[], unique = false) => {
      const builder = schema
        .createIndex(`${table}_${columns.join('_')}`)
        .on(table)
        .columns(columns);
      return (unique ? builder.unique() : builder).execute();
    };

    await schema
      .createTable('domains')
      .addColumn('id', 'text', key)
      .addColumn('title', 'text', required)
      .addColumn('consent', 'integer', required)
      .addColumn('privacy_bar_text', 'text', required)
      .addColumn('recording', 'text', required)
      .addColumn('created_ms', 'bigint', required)
      .execute();
    // Not by `insertInto`: the tables have no types here, as later versions of them will have others.
    await sql`insert into domains values ('', '', 0, '', '{}', 0)`.execute(db);

    // No cascade from domains: a domain is empty when it goes.
    const inDomain = (column: ColumnDefinitionBuilder) => column.notNull().references('domains.id');
    await schema
      .createTable('users')
      .addColumn('id', 'text', key)
      .addColumn('domain', 'text', inDomain)
      .addColumn('name', 'text', required)
      .addColumn('realname', 'text', required)
      .addColumn('site_rights', 'integer', required)
      .addColumn('locked', 'integer', required)
      .addColumn('password_hash', 'text')
      .addColumn('created_ms', 'bigint', required)
      .addColumn('last_login_ms', 'bigint')
      .execute();
    await index('users', ['domain', 'name'], true);
    // Not the users': what was issued to one who is gone stays void.
    await schema
      .createTable('removed_users')
      .addColumn('id', 'text', key)
      .addColumn('removed_ms', 'bigint', required)
      .execute();

    for (const table of ['user_groups', 'device_groups']) {
      const groups = schema
        .createTable(table)
        .addColumn('id', 'text', key)
        .addColumn('domain', 'text', inDomain)
        .addColumn('name', 'text', required)
        .addColumn('description', 'text', required)
        .addColumn('created_ms', 'bigint', required);
      await (table === 'device_groups' ? groups.addColumn('consent', 'integer', required) : groups).execute();
      await index(table, ['domain', 'name'], true);
    }

    await schema
      .createTable('devices')
      .addColumn('id', 'text', key)
      .addColumn('domain', 'text', inDomain)
      .addColumn('name', 'text', required)
      .addColumn('device_group_id', 'text', requiredTo('device_groups.id'))
      .addColumn('public_key', 'text')
      .addColumn('join_id', 'text')
      .addColumn('join_key', 'text')
      .addColumn('join_expires_ms', 'bigint')
      .addColumn('revoked_ms', 'bigint')
      .addColumn('created_ms', 'bigint', required)
      .addColumn('last_seen_ms', 'bigint')
      .execute();
    await index('devices', ['domain', 'name'], true);
    await index('devices', ['device_group_id', 'id']);
    await index('devices', ['join_id'], true);

    await schema
      .createTable('memberships')
      .addColumn('user_id', 'text', requiredTo('users.id'))
      .addColumn('user_group_id', 'text', requiredTo('user_groups.id'))
      .addPrimaryKeyConstraint('memberships_key', ['user_id', 'user_group_id'])
      .execute();
    await index('memberships', ['user_group_id', 'user_id']);

    await schema
      .createTable('links')
      .addColumn('user_id', 'text', to('users.id'))
      .addColumn('user_group_id', 'text', to('user_groups.id'))
      .addColumn('device_group_id', 'text', to('device_groups.id'))
      .addColumn('device_id', 'text', to('devices.id'))
      .addColumn('rights', 'integer', required)
      .addColumn('created_ms', 'bigint', required)
      .addCheckConstraint('links_one_subject', sql`(user_id is null) <> (user_group_id is null)`)
      .addCheckConstraint('links_one_target', sql`(device_group_id is null) <> (device_id is null)`)
      .execute();
    // One link for each pair; those of other kinds have a null in it and do not collide.
    for (const subject of ['user_id', 'user_group_id']) {
      for (const target of ['device_group_id', 'device_id']) await index('links', [subject, target], true);
    }
    await index('links', ['device_group_id']);
    await index('links', ['device_id']);

    await schema
      .createTable('shares')
      .addColumn('id', 'text', key)
      .addColumn('device_id', 'text', requiredTo('devices.id'))
      .addColumn('created_by', 'text', requiredTo('users.id'))
      .addColumn('guest_name', 'text', required)
      .addColumn('bits', 'integer', required)
      .addColumn('tcp_ports', 'text', required)
      .addColumn('view_only', 'integer', required)
      .addColumn('created_ms', 'bigint', required)
      .addColumn('expires_ms', 'bigint', required)
      .addColumn('revoked_ms', 'bigint')
      .addColumn('uses', 'bigint', required)
      .execute();
    await index('shares', ['device_id']);
    await index('shares', ['created_by']);

    await schema
      .createTable('login_sessions')
      .addColumn('id', 'text', key)
      .addColumn('token_hash', 'text', required)
      .addColumn('user_id', 'text', requiredTo('users.id'))
      .addColumn('address', 'text', required)
      .addColumn('created_ms', 'bigint', required)
      .addColumn('expires_ms', 'bigint', required)
      .addColumn('last_use_ms', 'bigint', required)
      .execute();
    await schema
      .createTable('api_tokens')
      .addColumn('id', 'text', key)
      .addColumn('token_hash', 'text', required)
      .addColumn('user_id', 'text', requiredTo('users.id'))
      .addColumn('name', 'text', required)
      .addColumn('scopes', 'text', required)
      .addColumn('created_ms', 'bigint', required)
      .addColumn('expires_ms', 'bigint')
      .addColumn('last_use_ms', 'bigint')
      .execute();
    for (const table of ['login_sessions', 'api_tokens']) {
      await index(table, ['token_hash'], true);
      await index(table, ['user_id']);
      await index(table, ['expires_ms']);
    }

    await schema
      .createTable('login_failures')
      .addColumn('id', 'text', key)
      .addColumn('failures', 'integer', required)
      .addColumn('until_ms', 'bigint', required)
      .execute();
    await index('login_failures', ['until_ms']);

    await counted('events')
      .addColumn('uid', 'text', (column) => column.notNull().unique())
      .addColumn('time_ms', 'bigint', required)
      .addColumn('code', 'text', required)
      .addColumn('domain', 'text', required)
      .addColumn('user_id', 'text')
      .addColumn('node_id', 'text')
      .addColumn('json', 'text', required)
      .execute();
    for (const columns of [['time_ms'], ['user_id', 'seq'], ['node_id', 'seq'], ['code', 'seq']]) {
      await index('events', columns);
    }

    await schema
      .createTable('audit_heads')
      .addColumn('log', 'text', required)
      .addColumn('file', 'bigint', required)
      .addColumn('line', 'bigint', required)
      .addColumn('mac', 'text', required)
      .addColumn('closed', 'integer', required)
      .addPrimaryKeyConstraint('audit_heads_key', ['log', 'file'])
      .execute();

    if (sqlite) await counted('changes').addColumn('body', 'text', required).execute();
  },
});
