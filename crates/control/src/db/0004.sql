ALTER TABLE projects ADD COLUMN native_login INTEGER NOT NULL DEFAULT 0 CHECK (native_login IN (0, 1));
ALTER TABLE projects ADD COLUMN custom_tags TEXT NOT NULL DEFAULT '[]'; -- JSON
ALTER TABLE projects ADD COLUMN budget_policy_id TEXT;
ALTER TABLE projects ADD COLUMN compute_provisioner TEXT;
ALTER TABLE endpoints ADD COLUMN readable_secondaries INTEGER NOT NULL DEFAULT 0
    CHECK (readable_secondaries IN (0, 1));
