-- What is asked in every round, or for a page of a list, must not look at every row.
CREATE INDEX branches_state ON branches (state);
CREATE INDEX branches_purge_time ON branches (purge_time) WHERE purge_time IS NOT NULL;
CREATE INDEX branches_place ON branches (project, create_time, uid);
CREATE INDEX branches_live_place ON branches (project, create_time, uid) WHERE delete_time IS NULL;
CREATE INDEX branches_deleted_id ON branches (id) WHERE delete_time IS NOT NULL;
CREATE INDEX operations_ended ON operations (update_time) WHERE done = 1;
CREATE INDEX audit_time ON audit (time);
CREATE INDEX audit_principal ON audit (principal);
