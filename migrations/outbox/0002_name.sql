-- What this outbox is known by in the journal, where each publisher fences off what those before it have under way.
ALTER TABLE foghorn.outbox_state ADD COLUMN name uuid NOT NULL DEFAULT gen_random_uuid();
