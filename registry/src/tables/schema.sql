CREATE TABLE applied (
    is_one BIGINT PRIMARY KEY CHECK (is_one = 1),
    schema_version BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL
);

CREATE TABLE entries (
    seq BIGINT PRIMARY KEY,
    time_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    hash TEXT NOT NULL,
    author TEXT,
    model TEXT,
    version BIGINT,
    environment TEXT,
    request TEXT,
    promotion TEXT,
    endpoint TEXT,
    rollout TEXT,
    data @json
);
CREATE INDEX entries_by_kind ON entries (kind, seq);
CREATE INDEX entries_by_model ON entries (model, kind, version, seq);
CREATE INDEX entries_by_request ON entries (request, kind);
CREATE INDEX entries_by_promotion ON entries (promotion, kind);
CREATE INDEX entries_by_endpoint ON entries (endpoint, seq);
CREATE INDEX entries_by_rollout ON entries (rollout, kind, seq);

CREATE VIEW models AS
SELECT
    f.model AS name,
    coalesce((SELECT s.data -> 'says' ->> 'owner' FROM entries s WHERE s.model = f.model AND s.kind = 'model.set'
        AND (s.data -> 'says' ->> 'owner') IS NOT NULL ORDER BY s.seq DESC LIMIT 1), f.author) AS owner,
    (SELECT s.data -> 'says' ->> 'description' FROM entries s WHERE s.model = f.model AND s.kind = 'model.set'
        AND (s.data -> 'says' ->> 'description') IS NOT NULL ORDER BY s.seq DESC LIMIT 1) AS description,
    (SELECT s.data -> 'says' ->> 'task' FROM entries s WHERE s.model = f.model AND s.kind = 'model.set'
        AND (s.data -> 'says' ->> 'task') IS NOT NULL ORDER BY s.seq DESC LIMIT 1) AS task,
    (SELECT s.data -> 'says' ->> 'risk' FROM entries s WHERE s.model = f.model AND s.kind = 'model.set'
        AND (s.data -> 'says' ->> 'risk') IS NOT NULL ORDER BY s.seq DESC LIMIT 1) AS risk,
    (SELECT max(s.version) FROM entries s WHERE s.model = f.model AND s.kind = 'model.version') AS newest_version,
    f.author,
    f.time_ms,
    f.seq
FROM (
    SELECT min(b.seq) AS seq FROM entries b WHERE b.kind IN ('model.set', 'model.version') AND b.model IS NOT NULL
    GROUP BY b.model
) AS begun
JOIN entries f ON f.seq = begun.seq;

CREATE VIEW versions AS
SELECT
    v.model,
    v.version,
    v.data -> 'says' -> 'content' ->> 'artifact' AS artifact,
    CASE
        WHEN (SELECT s.data -> 'says' ->> 'state' FROM entries s WHERE s.model = v.model AND s.version = v.version
            AND s.kind = 'model.state' ORDER BY s.seq DESC LIMIT 1) = 'quarantined' THEN 'quarantined'
        -- Whoever is released from quarantine is what he was, and nothing leads back from the archive.
        WHEN EXISTS (SELECT 1 FROM entries s WHERE s.model = v.model AND s.version = v.version
            AND s.kind = 'model.state' AND s.data -> 'says' ->> 'state' = 'archived') THEN 'archived'
        ELSE 'ready'
    END AS state,
    coalesce((SELECT s.data -> 'says' ->> 'description' FROM entries s WHERE s.model = v.model AND s.version = v.version
        AND s.kind = 'model.described' AND (s.data -> 'says' ->> 'description') IS NOT NULL ORDER BY s.seq DESC LIMIT 1),
        v.data -> 'says' -> 'content' ->> 'description', '') AS description,
    CAST((SELECT s.data -> 'says' ->> 'review_ms' FROM entries s WHERE s.model = v.model AND s.version = v.version
        AND s.kind = 'model.described' AND (s.data -> 'says' ->> 'review_ms') IS NOT NULL ORDER BY s.seq DESC LIMIT 1)
        AS BIGINT) AS review_ms,
    v.author,
    v.time_ms,
    v.seq
FROM entries v
WHERE v.kind = 'model.version';

CREATE VIEW version_files AS
SELECT
    v.model,
    v.version,
    file.value ->> 'path' AS path,
    CAST(file.value ->> 'size' AS BIGINT) AS size,
    file.value ->> 'sha256' AS sha256,
    v.seq
FROM entries v, @items[v.data -> 'says' -> 'content' -> 'files'] AS file
WHERE v.kind = 'model.version';

CREATE VIEW version_tags AS
SELECT model, version, key AS tag, value, seq
FROM (
    SELECT model, version, key, value, seq,
        row_number() OVER (PARTITION BY model, version, key ORDER BY seq DESC) AS place
    FROM (
        SELECT e.model, e.version, tag.key AS key, tag.value AS value, e.seq
        FROM entries e, @fields[e.data -> 'says' -> 'content' -> 'tags'] AS tag WHERE e.kind = 'model.version'
        UNION ALL
        SELECT e.model, e.version, tag.key, tag.value, e.seq
        FROM entries e, @fields[e.data -> 'says' -> 'set'] AS tag WHERE e.kind = 'model.tags'
        UNION ALL
        SELECT e.model, e.version, tag.value, NULL, e.seq
        FROM entries e, @names[e.data -> 'says' -> 'unset'] AS tag WHERE e.kind = 'model.tags'
    ) AS said
) AS placed
WHERE place = 1 AND value IS NOT NULL;

CREATE VIEW version_metrics AS
SELECT model, version, dataset, slice, metric, value, low, high, evaluator, author, time_ms, seq
FROM (
    SELECT told.*, row_number() OVER (PARTITION BY model, version, dataset, slice, metric ORDER BY seq DESC) AS place
    FROM (
        SELECT
            e.model,
            e.version,
            item.value -> 'key' ->> 'dataset' AS dataset,
            coalesce(item.value -> 'key' ->> 'slice', '') AS slice,
            item.value -> 'key' ->> 'metric' AS metric,
            CAST(item.value ->> 'value' AS DOUBLE PRECISION) AS value,
            CAST(item.value -> 'interval' ->> 0 AS DOUBLE PRECISION) AS low,
            CAST(item.value -> 'interval' ->> 1 AS DOUBLE PRECISION) AS high,
            coalesce(item.value ->> 'evaluator', '') AS evaluator,
            e.author,
            e.time_ms,
            e.seq
        FROM entries e, @items[e.data -> 'says' -> 'metrics'] AS item WHERE e.kind = 'model.metrics'
        UNION ALL
        SELECT
            e.model,
            e.version,
            item.value -> 'key' ->> 'dataset',
            coalesce(item.value -> 'key' ->> 'slice', ''),
            item.value -> 'key' ->> 'metric',
            CAST(item.value ->> 'value' AS DOUBLE PRECISION),
            CAST(item.value -> 'interval' ->> 0 AS DOUBLE PRECISION),
            CAST(item.value -> 'interval' ->> 1 AS DOUBLE PRECISION),
            coalesce(item.value ->> 'evaluator', ''),
            e.author,
            e.time_ms,
            e.seq
        FROM entries e, @items[e.data -> 'says' -> 'content' -> 'metrics'] AS item WHERE e.kind = 'model.version'
    ) AS told
) AS placed
WHERE place = 1;

CREATE VIEW aliases AS
SELECT model, alias, version, author, time_ms, seq
FROM (
    SELECT e.model, e.data -> 'says' ->> 'alias' AS alias, e.version, e.author, e.time_ms, e.seq,
        row_number() OVER (PARTITION BY e.model, e.data -> 'says' ->> 'alias' ORDER BY e.seq DESC) AS place
    FROM entries e WHERE e.kind = 'model.alias'
) AS placed
WHERE place = 1 AND version IS NOT NULL;

CREATE VIEW environments AS
SELECT environment AS name, place_in_order AS rank, policy, author, time_ms, seq
FROM (
    SELECT e.environment, CAST(e.data -> 'says' ->> 'rank' AS BIGINT) AS place_in_order,
        CAST(e.data -> 'says' -> 'policy' AS TEXT) AS policy, e.author, e.time_ms, e.seq,
        row_number() OVER (PARTITION BY e.environment ORDER BY e.seq DESC) AS place
    FROM entries e WHERE e.kind = 'environment.set'
) AS placed
WHERE place = 1
UNION ALL
-- Those that everybody has, until somebody declares them.
SELECT name, place_in_order, '{}', NULL, 0, 0
FROM (
    SELECT 'dev' AS name, 10 AS place_in_order
    UNION ALL SELECT 'staging', 20
    UNION ALL SELECT 'prod', 30
) AS given
WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.kind = 'environment.set' AND e.environment = given.name);

CREATE VIEW environment_moves AS
SELECT e.environment, e.model, e.version, 'promoted' AS cause, e.promotion, e.author, e.time_ms, e.seq
FROM entries e WHERE e.kind = 'promotion.made'
UNION ALL
SELECT b.environment, b.model, b.version, 'promoted', b.promotion, e.author, e.time_ms, e.seq
FROM entries e JOIN entries b ON b.promotion = e.promotion AND b.kind = 'promotion.begun'
WHERE e.kind = 'promotion.ended' AND e.data -> 'says' ->> 'outcome' = 'promoted'
UNION ALL
SELECT e.environment, e.model, CAST(e.data -> 'says' ->> 'to' AS BIGINT), 'rolled_back', NULL, e.author, e.time_ms, e.seq
FROM entries e WHERE e.kind = 'environment.rolled_back';

CREATE VIEW environment_versions AS
SELECT environment, model, version, cause, promotion, author, time_ms, seq
FROM (
    SELECT moves.*, row_number() OVER (PARTITION BY environment, model ORDER BY seq DESC) AS place
    FROM environment_moves AS moves
) AS placed
WHERE place = 1;

CREATE VIEW requests AS
SELECT
    r.request,
    r.model,
    r.version,
    r.environment,
    r.data -> 'says' -> 'bound' ->> 'artifact' AS artifact,
    coalesce(r.data -> 'says' ->> 'reason', '') AS reason,
    (SELECT CASE e.kind WHEN 'approval.rejected' THEN 'rejected' WHEN 'approval.withdrawn' THEN 'withdrawn'
        ELSE 'promoted' END
     FROM entries e WHERE e.request = r.request
        AND (e.kind IN ('approval.rejected', 'approval.withdrawn', 'promotion.made') OR (e.kind = 'promotion.begun'
            AND EXISTS (SELECT 1 FROM entries p WHERE p.promotion = e.promotion AND p.kind = 'promotion.ended'
                AND p.data -> 'says' ->> 'outcome' = 'promoted')))
     ORDER BY e.seq DESC LIMIT 1) AS ended,
    r.author,
    r.time_ms,
    r.seq
FROM entries r
WHERE r.kind = 'approval.requested';

CREATE VIEW approvals AS
SELECT
    a.request,
    a.author AS approver,
    a.data -> 'by' ->> 'how' AS how,
    a.data -> 'says' -> 'bound' ->> 'artifact' AS artifact,
    a.data -> 'says' -> 'bound' ->> 'card' AS card,
    a.data -> 'says' -> 'bound' ->> 'policy' AS policy,
    coalesce(a.data -> 'says' ->> 'comment', '') AS comment,
    CAST(a.data -> 'says' ->> 'expires_ms' AS BIGINT) AS expires_ms,
    a.data -> 'says' -> 'seal' ->> 'key' AS sealed_by,
    a.data -> 'says' -> 'seal' ->> 'signature' AS seal,
    (SELECT min(r.seq) FROM entries r WHERE r.request = a.request AND r.kind = 'approval.revoked' AND r.seq > a.seq
        AND r.data -> 'says' ->> 'approver' = a.author) AS revoked_seq,
    a.time_ms,
    a.seq
FROM entries a
WHERE a.kind = 'approval.approved';

CREATE VIEW promotions AS
SELECT
    p.promotion,
    p.model,
    p.version,
    p.environment,
    CAST(p.data -> 'says' ->> 'from' AS BIGINT) AS from_version,
    p.request,
    p.rollout,
    p.data -> 'says' -> 'bound' ->> 'artifact' AS artifact,
    p.data -> 'says' -> 'overridden' ->> 'reason' AS overridden,
    CASE p.kind
        WHEN 'promotion.made' THEN 'promoted'
        ELSE coalesce((SELECT e.data -> 'says' ->> 'outcome' FROM entries e
            WHERE e.promotion = p.promotion AND e.kind = 'promotion.ended' ORDER BY e.seq DESC LIMIT 1), 'under_way')
    END AS outcome,
    (SELECT max(e.seq) FROM entries e WHERE e.promotion = p.promotion AND e.kind = 'promotion.ended') AS ended_seq,
    p.author,
    p.time_ms,
    p.seq
FROM entries p
WHERE p.kind IN ('promotion.made', 'promotion.begun');

CREATE VIEW endpoint_plans AS
SELECT
    e.endpoint,
    CAST(e.data -> 'says' ->> 'revision' AS BIGINT) AS revision,
    e.data -> 'says' ->> 'cause' AS cause,
    e.rollout,
    e.author,
    e.time_ms,
    (SELECT n.time_ms FROM entries n WHERE n.endpoint = e.endpoint AND n.kind = 'endpoint.plan' AND n.seq > e.seq
        ORDER BY n.seq LIMIT 1) AS until_ms,
    e.seq
FROM entries e
WHERE e.kind = 'endpoint.plan';

CREATE VIEW endpoint_arms AS
SELECT
    e.endpoint,
    CAST(e.data -> 'says' ->> 'revision' AS BIGINT) AS revision,
    arm.value ->> 'name' AS arm,
    arm.value ->> 'role' AS role,
    arm.value ->> 'model' AS model,
    CAST(arm.value ->> 'version' AS BIGINT) AS version,
    arm.value ->> 'artifact' AS artifact,
    arm.value ->> 'deployment' AS deployment,
    CAST(arm.value ->> 'weight' AS BIGINT) AS weight,
    e.time_ms,
    e.seq
FROM entries e, @items[e.data -> 'says' -> 'arms'] AS arm
WHERE e.kind = 'endpoint.plan';

CREATE VIEW verdicts AS
SELECT
    e.rollout,
    CAST(e.data -> 'verdict' ->> 'sequence' AS BIGINT) AS number,
    e.data -> 'verdict' ->> 'decision' AS decision,
    e.data -> 'verdict' ->> 'state' AS state,
    CAST(e.data -> 'verdict' ->> 'share' AS BIGINT) AS share,
    CAST(e.data -> 'verdict' -> 'reasons' AS TEXT) AS reasons,
    e.time_ms,
    e.seq
FROM entries e
WHERE e.kind = 'rollout.event';

CREATE VIEW rollouts AS
SELECT
    p.rollout,
    p.data -> 'plan' ->> 'endpoint' AS endpoint,
    p.data ->> 'declared' AS declared,
    (SELECT e.data -> 'verdict' ->> 'state' FROM entries e WHERE e.rollout = p.rollout AND e.kind = 'rollout.event'
        ORDER BY e.seq DESC LIMIT 1) AS state,
    (SELECT count(*) FROM entries e WHERE e.rollout = p.rollout AND e.kind = 'rollout.event') AS verdicts,
    p.time_ms,
    p.seq
FROM entries p
WHERE p.kind = 'rollout.plan';
