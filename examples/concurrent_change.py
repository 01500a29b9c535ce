"""Scenario 3: production changes while a branch is worked on.

Before a migration is replayed on production, production is compared with what the branch began with.
Drift is named and nothing is done. The branch is then made again from production as it is now, under its
old name, the migration replayed there, and production gets it.
"""

from shop import DAY, Shop, differences, expect

BRANCH = "feature-order-priority"

MIGRATION = "ALTER TABLE ecommerce.orders ADD COLUMN IF NOT EXISTS priority VARCHAR(10) NOT NULL DEFAULT 'normal'"

HOTFIX = "ALTER TABLE ecommerce.customers ADD COLUMN email_verified BOOLEAN NOT NULL DEFAULT false"


class Drift(Exception):
    """Production is not what the branch began with."""


def promote(production, base, migration):
    """Replays a migration on production if that is still as `base` says."""
    drift = differences(base, production.schema())
    if drift:
        raise Drift("; ".join(drift))
    production.run(migration)


def work(shop):
    """The branch, made anew, with the migration; gives what it began with."""
    shop.branch(BRANCH, 2 * DAY)
    with shop.connect(BRANCH) as branch:
        base = branch.schema()
        branch.run(MIGRATION)
        expect("what is new on the branch", [line.split()[1] for line in differences(base, branch.schema())],
               ["orders.priority"])
    return base


def main():
    with Shop("concurrent-change") as shop, shop.connect("production") as production:
        base = work(shop)
        production.run(HOTFIX)
        try:
            promote(production, base, MIGRATION)
            raise SystemExit("drift was not found")
        except Drift as drift:
            expect("production has drifted", str(drift),
                   "+ customers.email_verified boolean NOT NULL DEFAULT false")
        expect("production has the new column of orders", "orders.priority" in production.schema(), False)

        shop.delete_branch(BRANCH)
        base = work(shop)
        expect("the branch has production's change", "customers.email_verified" in base, True)
        promote(production, base, MIGRATION)
        schema = production.schema()
        both = [column in schema for column in ("orders.priority", "customers.email_verified")]
        expect("production has both", both, [True, True])
        shop.delete_branch(BRANCH)


if __name__ == "__main__":
    main()
