"""Scenario 1: change data on a branch; production does not notice.

A branch that lives for a day gets a new customer. It then has 101 of them, production still has 100.
"""

from shop import DAY, Shop, expect

CUSTOMERS = "SELECT count(*) FROM ecommerce.customers"


def main():
    with Shop("data-only") as shop:
        branch = shop.branch("dev-readonly", DAY)
        life = branch.status.expire_time.seconds - branch.create_time.seconds
        expect("seconds until the branch vanishes", life, DAY)
        with shop.connect("dev-readonly") as dev, shop.connect("production") as production:
            expect("customers on the branch", dev.one(CUSTOMERS), 100)
            dev.run(
                "INSERT INTO ecommerce.customers (first_name, last_name, email, city, country) "
                "VALUES (%s, %s, %s, %s, %s)",
                "Ada", "Branch", "ada.branch@example.com", "Lyon", "FR",
            )
            expect("customers on the branch afterwards", dev.one(CUSTOMERS), 101)
            expect("customers in production", production.one(CUSTOMERS), 100)
            # The other way round it is the same.
            production.run("UPDATE ecommerce.products SET stock_quantity = 0 WHERE product_id = 1")
            stock = dev.one("SELECT stock_quantity FROM ecommerce.products WHERE product_id = 1")
            expect("the branch has the stock that it began with", stock > 0, True)


if __name__ == "__main__":
    main()
