-- A small shop: 100 customers, 50 products in 5 categories, 200 orders, 500 order items.
-- Every value follows from row numbers, so each load is the same.

BEGIN;

CREATE SCHEMA ecommerce;

CREATE TABLE ecommerce.customers (
    customer_id  serial PRIMARY KEY,
    first_name   varchar(50) NOT NULL,
    last_name    varchar(50) NOT NULL,
    email        varchar(120) NOT NULL UNIQUE,
    city         varchar(60) NOT NULL,
    country      char(2) NOT NULL,
    created_at   timestamp NOT NULL DEFAULT now()
);

CREATE TABLE ecommerce.products (
    product_id     serial PRIMARY KEY,
    name           varchar(100) NOT NULL UNIQUE,
    category       varchar(40) NOT NULL,
    price          numeric(10, 2) NOT NULL CHECK (price > 0),
    stock_quantity integer NOT NULL DEFAULT 0 CHECK (stock_quantity >= 0)
);

CREATE TABLE ecommerce.orders (
    order_id     serial PRIMARY KEY,
    customer_id  integer NOT NULL REFERENCES ecommerce.customers,
    status       varchar(20) NOT NULL CHECK (status IN ('pending', 'paid', 'shipped', 'delivered', 'cancelled')),
    order_date   timestamp NOT NULL DEFAULT now(),
    total_amount numeric(10, 2) NOT NULL DEFAULT 0
);

CREATE TABLE ecommerce.order_items (
    order_item_id serial PRIMARY KEY,
    order_id      integer NOT NULL REFERENCES ecommerce.orders,
    product_id    integer NOT NULL REFERENCES ecommerce.products,
    quantity      integer NOT NULL CHECK (quantity > 0),
    unit_price    numeric(10, 2) NOT NULL,
    UNIQUE (order_id, product_id)
);

CREATE INDEX orders_customer_id ON ecommerce.orders (customer_id);
CREATE INDEX order_items_product_id ON ecommerce.order_items (product_id);

-- Ten first names and ten last names make a hundred people.
INSERT INTO ecommerce.customers (first_name, last_name, email, city, country, created_at)
SELECT first, last, lower(first) || '.' || lower(last) || '@example.com', place[1], place[2],
       timestamp '2025-01-06 09:00' + n * interval '61 hours 7 minutes'
FROM generate_series(0, 99) AS n
CROSS JOIN LATERAL (SELECT
    (ARRAY['Amelia', 'Ben', 'Chiara', 'Daniel', 'Elif', 'Farid', 'Grace', 'Hiro', 'Ines', 'Jakub'])[n % 10 + 1] AS first,
    (ARRAY['Almeida', 'Baker', 'Chen', 'Dubois', 'Eriksen', 'Fischer', 'Garcia', 'Haddad', 'Ivanova', 'Jones'])[n / 10 + 1] AS last,
    CASE (n * 7) % 8
        WHEN 0 THEN ARRAY['Lisbon', 'PT'] WHEN 1 THEN ARRAY['London', 'GB'] WHEN 2 THEN ARRAY['Milan', 'IT']
        WHEN 3 THEN ARRAY['Lyon', 'FR'] WHEN 4 THEN ARRAY['Oslo', 'NO'] WHEN 5 THEN ARRAY['Berlin', 'DE']
        WHEN 6 THEN ARRAY['Madrid', 'ES'] ELSE ARRAY['Krakow', 'PL'] END AS place
) AS person
ORDER BY n;

INSERT INTO ecommerce.products (name, category, price, stock_quantity)
SELECT names[n % 10 + 1], category, round((base + (n * 37 % 100) * step)::numeric, 2), 20 + n * 13 % 180
FROM generate_series(0, 49) AS n
CROSS JOIN LATERAL (SELECT * FROM (VALUES
    (0, 'Electronics', 19.90, 4.79, ARRAY['Wireless Mouse', 'Mechanical Keyboard', 'USB-C Hub', 'Noise-Cancelling Headphones',
        'Portable SSD', 'Webcam', 'Smart Plug', 'E-Reader', 'Desk Lamp', 'Power Bank']),
    (1, 'Books', 8.50, 0.35, ARRAY['A Short History of Rivers', 'Bread at Home', 'Cold Mountains', 'Database Internals Explained',
        'Evening Stories', 'First Steps in Statistics', 'Gardens of the North', 'How Bridges Stand', 'Island Kitchen', 'Journeys by Train']),
    (2, 'Home', 12.00, 1.15, ARRAY['Ceramic Teapot', 'Linen Tablecloth', 'Oak Cutting Board', 'Cast-Iron Pan',
        'Wool Blanket', 'Glass Carafe', 'Bamboo Shelf', 'Scented Candle', 'Cotton Towels', 'Wall Clock']),
    (3, 'Clothing', 14.90, 0.99, ARRAY['Merino Socks', 'Rain Jacket', 'Linen Shirt', 'Denim Jeans',
        'Knitted Scarf', 'Canvas Belt', 'Running Tights', 'Fleece Hoodie', 'Sun Hat', 'Leather Gloves']),
    (4, 'Sports', 9.90, 1.49, ARRAY['Yoga Mat', 'Skipping Rope', 'Trail Backpack', 'Water Bottle',
        'Resistance Bands', 'Bike Light', 'Climbing Chalk', 'Swim Goggles', 'Badminton Set', 'Camping Stove'])
) AS shelf (place, category, base, step, names) WHERE place = n / 10) AS shelf
ORDER BY n;

-- The first customers order often, some of the last never.
INSERT INTO ecommerce.orders (customer_id, status, order_date)
SELECT CASE WHEN n < 100 THEN r * (r + 50) / 150 ELSE r * (r + 20) / 120 END + 1,
       (ARRAY['delivered', 'delivered', 'delivered', 'shipped', 'shipped', 'paid', 'paid', 'pending', 'delivered', 'cancelled'])[n * 3 % 10 + 1],
       timestamp '2025-09-01 08:30' + n * interval '26 hours 13 minutes'
FROM generate_series(0, 199) AS n
CROSS JOIN LATERAL (SELECT n * 37 % 100 AS r) AS turn
ORDER BY n;

-- Two items an order, three in every other one: 500 in all.
INSERT INTO ecommerce.order_items (order_id, product_id, quantity, unit_price)
SELECT o.order_id, p.product_id, (o.order_id * 5 + line) % 3 + 1, p.price
FROM ecommerce.orders AS o
CROSS JOIN generate_series(0, 2) AS line
JOIN ecommerce.products AS p ON p.product_id = (o.order_id * 17 + line * 19) % 50 + 1
WHERE line < 2 + o.order_id % 2
ORDER BY o.order_id, line;

UPDATE ecommerce.orders AS o
SET total_amount = (SELECT sum(quantity * unit_price) FROM ecommerce.order_items AS i WHERE i.order_id = o.order_id);

COMMIT;
