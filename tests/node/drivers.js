// node-postgres against a daemon; the environment says where that is. Run by
// tests/python/test_drivers.py; prints one line a check.
"use strict";
const fs = require("fs");
const { Client, Pool } = require("pg");

const { PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGSSLROOTCERT } = process.env;
for (const name of Object.keys(process.env)) if (name.startsWith("PG")) delete process.env[name];

const known = {
  host: PGHOST,
  port: Number(PGPORT),
  user: PGUSER,
  password: PGPASSWORD,
  database: PGDATABASE,
  ssl: { ca: fs.readFileSync(PGSSLROOTCERT, "utf8"), rejectUnauthorized: true },
};

function check(what, holds) {
  console.log(`node-postgres: ${what}: ${holds ? "ok" : "FAILED"}`);
  if (!holds) process.exit(1);
}

async function refusal(changes) {
  const client = new Client({ ...known, ...changes });
  try {
    await client.connect();
    return {};
  } catch (error) {
    return error;
  }
}

async function main() {
  const client = new Client(known);
  await client.connect();
  const rows = await client.query("SELECT session_user AS who, g FROM generate_series(1, $1::int) g", [20000]);
  check("certificate and name checked, parameters", rows.rowCount === 20000 && rows.rows[0].who === PGUSER);
  check("wrong password", (await refusal({ password: "wrong" })).code === "28P01");
  check("plain text", (await refusal({ ssl: false })).code === "28000");
  check("unknown role", /authentication failed/.test((await refusal({ user: "nobody@example.org" })).message));
  const uri =
    `postgresql://${encodeURIComponent(PGUSER)}:${encodeURIComponent(PGPASSWORD)}@${PGHOST}:${PGPORT}` +
    `/${PGDATABASE}?sslmode=verify-full&sslrootcert=${PGSSLROOTCERT}`;
  const byUri = new Client({ connectionString: uri });
  await byUri.connect();
  check("the URI that ana prints", (await byUri.query("SELECT 1 AS one")).rows[0].one === 1);
  await byUri.end();
  const pool = new Pool({ ...known, max: 10 });
  const answers = await Promise.all([...Array(200).keys()].map((n) => pool.query("SELECT $1::int AS n", [n])));
  check("pool", answers.every((answer, n) => answer.rows[0].n === n));
  await pool.end();
  await client.end();
  console.log("node-postgres: all ok");
}

main();
