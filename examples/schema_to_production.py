"""Scenario 2: a migration is tried on a branch, looked at, and replayed on production.

The migration may run as often as one likes: it adds a column where there is none and touches only rows
that are not yet as they should be.
"""

from databricks.sdk.errors import NotFound

from shop import DAY, Shop, differences, expect

BRANCH = "feature-loyalty-tier"

MIGRATION = """
BEGIN;
ALTER TABLE ecommerce.customers ADD COLUMN IF NOT EXISTS loyalty_tier VARCHAR(20) DEFAULT 'bronze';
UPDATE ecommerce.customers AS customer
SET loyalty_tier = earned.tier
FROM (
    SELECT customer_id,
           CASE WHEN count(*) >= 5 THEN 'platinum' WHEN count(*) >= 3 THEN 'gold' ELSE 'silver' END AS tier
    FROM ecommerce.orders
    GROUP BY customer_id
) AS earned
WHERE customer.customer_id = earned.customer_id AND customer.loyalty_tier IS DISTINCT FROM earned.tier;
COMMIT;
"""

TIERS = "SELECT loyalty_tier, count(*) FROM ecommerce.customers GROUP BY loyalty_tier ORDER BY loyalty_tier"

# Customers whose tier does not follow from the number of their orders.
WRONG = """
SELECT count(*)
FROM (
    SELECT loyalty_tier, (SELECT count(*) FROM ecommerce.orders AS o WHERE o.customer_id = c.customer_id) AS orders
    FROM ecommerce.customers AS c
) AS customer
WHERE loyalty_tier IS DISTINCT FROM CASE
    WHEN orders >= 5 THEN 'platinum' WHEN orders >= 3 THEN 'gold' WHEN orders >= 1 THEN 'silver' ELSE 'bronze' END
"""

# Changes with every row version that is written, even by an update to the same values.
VERSIONS = "SELECT md5(string_agg(xmin::text || ctid::text, ',' ORDER BY customer_id)) FROM ecommerce.customers"


def main():
    with Shop("schema-to-production") as shop:
        shop.branch(BRANCH, 7 * DAY)
        with shop.connect(BRANCH) as branch, shop.connect("production") as production:
            before = production.schema()
            branch.run(MIGRATION)
            expect("customers in a wrong tier on the branch", branch.one(WRONG), 0)
            tiers = dict(branch.rows(TIERS))
            print("  tiers on the branch: " + ", ".join(f"{count} {tier}" for tier, count in tiers.items()))
            expect("tiers in use", sorted(tiers), ["bronze", "gold", "platinum", "silver"])
            expect("customers on the branch", sum(tiers.values()), 100)
            wanted = ["+ customers.loyalty_tier character varying(20) DEFAULT 'bronze'::character varying"]
            expect("what is new on the branch", differences(production.schema(), branch.schema()), wanted)
            expect("what is new in production", differences(before, production.schema()), [])

            production.run(MIGRATION)
            expect("what the branch has beside production", differences(production.schema(), branch.schema()), [])
            expect("tiers in production are those of the branch", dict(production.rows(TIERS)) == tiers, True)

            versions, schema = production.one(VERSIONS), production.schema()
            production.run(MIGRATION)
            expect("a replay writes no row", production.one(VERSIONS) == versions, True)
            expect("a replay changes no column", differences(schema, production.schema()), [])

        shop.delete_branch(BRANCH)
        expect("branches", shop.branches(), ["production"])
        try:
            shop.w.postgres.get_branch(name=f"{shop.name}/branches/{BRANCH}")
            raise SystemExit(f"{BRANCH} is still there")
        except NotFound:
            pass


if __name__ == "__main__":
    main()
