"""Scenario 4: a branch for each pull request, all checked at once, none cleaned up by hand.

Number 43 forgets to raise orders over 500 to high priority; its checks find that. The branches live for an
hour and vanish by themselves. `--ttl SECONDS` makes that shorter, and the program then waits to see it.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

from shop import HOUR, Shop, expect

COLUMN = (
    "SELECT count(*) FROM information_schema.columns "
    "WHERE table_schema = 'ecommerce' AND table_name = '{}' AND column_name = '{}'"
)

ALL_THERE = [
    ("customers", "SELECT count(*) FROM ecommerce.customers", 100),
    ("products", "SELECT count(*) FROM ecommerce.products", 50),
    ("orders", "SELECT count(*) FROM ecommerce.orders", 200),
    ("items of orders", "SELECT count(*) FROM ecommerce.order_items", 500),
]

# Number: what it does, and the checks of its own: what, query, answer.
PULL_REQUESTS = {
    42: (
        "ALTER TABLE ecommerce.customers ADD COLUMN IF NOT EXISTS phone VARCHAR(30)",
        [("customers have a phone", COLUMN.format("customers", "phone"), 1)],
    ),
    43: (
        "ALTER TABLE ecommerce.orders ADD COLUMN IF NOT EXISTS priority VARCHAR(10) NOT NULL DEFAULT 'normal'",
        [
            ("orders have a priority", COLUMN.format("orders", "priority"), 1),
            (
                "orders over 500 without high priority",
                "SELECT count(*) FROM ecommerce.orders WHERE total_amount > 500 AND priority <> 'high'",
                0,
            ),
        ],
    ),
    44: (
        "CREATE INDEX IF NOT EXISTS products_category ON ecommerce.products (category)",
        [("indexes on the category", "SELECT count(*) FROM pg_indexes WHERE indexname = 'products_category'", 1)],
    ),
}


def check(shop, number, seconds):
    """One pull request on a branch of its own; gives its branch and what failed."""
    migration, own = PULL_REQUESTS[number]
    begin = time.monotonic()
    branch = shop.branch(f"ci-pr-{number}", seconds)
    with shop.connect(f"ci-pr-{number}") as connection:
        connection.run(migration)
        checks = ALL_THERE + own
        failed = [what for what, query, answer in checks if connection.one(query) != answer]
    return branch, len(checks), failed, time.monotonic() - begin


def report(results):
    print(f"  {'pull request':<14}{'branch':<12}{'checks':>7}{'failed':>7}{'seconds':>9}  result")
    for number, (branch, checks, failed, seconds) in results.items():
        name = branch.name.split("/")[-1]
        verdict = "failed: " + ", ".join(failed) if failed else "passed"
        print(f"  {number:<14}{name:<12}{checks:>7}{len(failed):>7}{seconds:>9.1f}  {verdict}")
    checks = sum(result[1] for result in results.values())
    failed = sum(len(result[2]) for result in results.values())
    passed = sum(not result[2] for result in results.values())
    print(f"  {'in all':<26}{checks:>7}{failed:>7}{'':>9}  {passed} of {len(results)} passed")


def await_end(shop, patience):
    """Waits until only production is left."""
    end = time.monotonic() + patience
    while shop.branches() != ["production"]:
        if time.monotonic() > end:
            raise SystemExit(f"branches did not vanish: {shop.branches()}")
        time.sleep(1)
    print("  the branches have vanished")


def main():
    options = argparse.ArgumentParser(description="Checks three pull requests on branches of their own.")
    options.add_argument("--ttl", type=int, default=HOUR, help="seconds that a branch lives")
    ttl = options.parse_args().ttl
    with Shop("ci") as shop:
        with ThreadPoolExecutor(len(PULL_REQUESTS)) as pool:
            running = {number: pool.submit(check, shop, number, ttl) for number in PULL_REQUESTS}
        results = {number: future.result() for number, future in running.items()}
        report(results)
        failed = {number: result[2] for number, result in results.items() if result[2]}
        expect("what failed", failed, {43: ["orders over 500 without high priority"]})
        lives = {branch.status.expire_time.seconds - branch.create_time.seconds for branch, *_ in results.values()}
        expect("seconds that each branch lives", lives, {ttl})
        if ttl < HOUR:
            await_end(shop, ttl + 60)
        with shop.connect("production") as production:
            schema = production.schema()
            touched = [column for column in ("customers.phone", "orders.priority") if column in schema]
            expect("columns of the pull requests in production", touched, [])


if __name__ == "__main__":
    main()
