//! One state for many replicas, in Redis or Valkey: compare-and-set on a revision, a lease for the one controller, a push to all.
//!
//! Input: commits of this replica; the pushes and beats of the others. Output: what the fleet has acknowledged. Must not: be waited for by
//! a request, or by a kill; decide anything: a store that is away is an error, and what follows from it is the caller's.

use crate::settings::FleetSettings;
use arc_swap::ArcSwapOption;
use banyan_routes::audit::Entry;
use banyan_routes::state::{Last, State};
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, RedisResult, Script, TlsCertificates};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A store that does not answer for this long is away.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Milliseconds.
const DEADLINE_MARGIN: u64 = 50;
const CONNECT_MAX: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_secs(1);
/// The controller is gone when it has not renewed its lease for this long.
const LEASE: Duration = Duration::from_secs(3);
/// What a clock may do between two machines in that time; the holder stops before its lease does.
const LEASE_MARGIN: Duration = Duration::from_millis(500);
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// All or nothing: in time (a store that hangs would do it minutes later), and the lease (where one is needed), the revision and the chain
/// are as the caller thinks.
const COMMIT: &str = r"
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[9]) then return 'late' end
if ARGV[7] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[7] then return 'lease' end
local now = redis.call('HMGET', KEYS[1], 'revision', 'hash')
if (now[1] or '0') ~= ARGV[1] or (now[2] or ARGV[5]) ~= ARGV[5] then return 'conflict' end
redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'state', ARGV[3], 'hash', ARGV[6])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[8], ARGV[2])
return 'kept'
";

/// Takes or renews the lease, says that this replica is alive, and who else is.
const BEAT_SCRIPT: &str = r"
local owner = redis.call('GET', KEYS[3])
if not owner then
  redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
  owner = ARGV[1]
elseif owner == ARGV[1] or redis.call('PTTL', KEYS[3]) < 0 then
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
local time = redis.call('TIME')
local now = tonumber(time[1])
redis.call('HSET', KEYS[4], ARGV[1], now .. ' ' .. ARGV[3])
local alive = {}
local all = redis.call('HGETALL', KEYS[4])
for at = 1, #all, 2 do
  local seen, what = string.match(all[at + 1], '^(%d+) (.*)$')
  if not seen or tonumber(seen) < now - 10 then redis.call('HDEL', KEYS[4], all[at]) else alive[#alive + 1] = what end
end
return {owner, redis.call('HGET', KEYS[1], 'revision') or '0', alive, math.floor(time[1] * 1000 + time[2] / 1000)}
";

/// The store came back with less than a replica knows to be acknowledged: it is told again, whole.
const RESTORE: &str = r"
if (redis.call('HGET', KEYS[1], 'revision') or '0') ~= ARGV[1] then return 'conflict' end
redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'state', ARGV[3], 'hash', ARGV[4])
redis.call('DEL', KEYS[2])
for at = 6, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[at]) end
redis.call('PUBLISH', ARGV[5], ARGV[2])
return 'kept'
";

/// What a replica says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replica {
    pub id: String,
    pub admin: String,
    pub rules_revision: String,
    pub state_revision: u64,
    #[serde(default)]
    pub leads: bool,
}

/// What a replica says of one of its breakers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct News {
    from: String,
    pub backend: String,
    /// For how long it has opened; `None`: it has closed.
    pub open_ms: Option<u64>,
}

/// Why nothing was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// Somebody was first: catch up, and look again.
    Conflict,
    /// Another replica is the controller now.
    Lease,
    Away(String),
    /// The store did not say in time; what it does later, it refuses.
    Unknown(String),
}

/// What the store holds.
pub struct Held {
    pub state: State,
    /// All, or those behind the sequence that was asked for.
    pub entries: Vec<Entry>,
    pub last_hash: Option<String>,
}

pub struct Fleet {
    client: Client,
    /// State, audit log, lease, replicas.
    keys: [String; 4],
    channel: String,
    pub id: String,
    admin: String,
    /// Of channels for what breakers tell each other.
    breakers: String,
    prefix: String,
    link: ArcSwapOption<MultiplexedConnection>,
    /// Of the hashes that the replicas have in common; chosen by the first.
    seed: AtomicU64,
    up: AtomicBool,
    /// That it is not up was said, with its cause.
    said_away: AtomicBool,
    /// What it holds is understood.
    readable: AtomicBool,
    /// The store's clock at a beat, in milliseconds, and when that was.
    clock: Mutex<(u64, Instant)>,
    /// Milliseconds after `born`.
    leads_until: AtomicU64,
    born: Instant,
    replicas: Mutex<Vec<Replica>>,
    size: AtomicU32,
    /// Of the rules and the state that serve here.
    here: Mutex<(String, u64)>,
    /// Wakes the control thread: there may be something new.
    pub changed: Notify,
    commit: Script,
    beat: Script,
    restore: Script,
}

impl Fleet {
    pub fn new(settings: &FleetSettings, admin: String) -> Result<Fleet, String> {
        let client = match &settings.ca {
            Some(ca) => {
                let root_cert = Some(ca.clone());
                Client::build_with_tls(settings.url.as_str(), TlsCertificates { client_tls: None, root_cert })
            }
            None => Client::open(settings.url.as_str()),
        };
        let client = client.map_err(|error| format!("state.url: {error}"))?;
        // In braces, so that a cluster keeps them in one place.
        let key = |name: &str| format!("{{{}}}:{name}", settings.prefix);
        Ok(Fleet {
            client,
            keys: ["state", "audit", "lease", "replicas"].map(key),
            channel: key("changed"),
            breakers: key("breakers"),
            prefix: settings.prefix.clone(),
            seed: AtomicU64::new(0),
            size: AtomicU32::new(1),
            id: format!("{:016x}", rand::random::<u64>()),
            admin,
            link: ArcSwapOption::empty(),
            up: AtomicBool::new(false),
            said_away: AtomicBool::new(false),
            readable: AtomicBool::new(true),
            clock: Mutex::new((0, Instant::now())),
            leads_until: AtomicU64::new(0),
            born: Instant::now(),
            replicas: Mutex::new(Vec::new()),
            here: Mutex::new((String::new(), 0)),
            changed: Notify::new(),
            commit: Script::new(COMMIT),
            beat: Script::new(BEAT_SCRIPT),
            restore: Script::new(RESTORE),
        })
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) && self.readable.load(Ordering::Relaxed)
    }

    /// Whether this replica is the controller; false some time before another one can be.
    pub fn leads(&self) -> bool {
        let now = self.born.elapsed().as_millis() as u64;
        self.is_up() && now < self.leads_until.load(Ordering::Relaxed)
    }

    pub fn replicas(&self) -> Vec<Replica> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the others are told with the next beat.
    pub fn serve(&self, rules_revision: &str, state_revision: u64) {
        *self.here.lock().unwrap_or_else(PoisonError::into_inner) =
            (rules_revision.to_owned(), state_revision);
    }

    /// How many replicas there were when the store was asked last.
    pub fn size(&self) -> u32 {
        self.size.load(Ordering::Relaxed)
    }

    /// Where something of a kind is kept.
    pub fn key(&self, kind: &str, name: &str) -> String {
        format!("{{{}}}:{kind}:{name}", self.prefix)
    }

    /// The connection while the store answers, and the seed of the fleet's hashes.
    pub fn connection(&self) -> Option<(MultiplexedConnection, u64)> {
        let link = self.link.load_full().filter(|_| self.up.load(Ordering::Relaxed))?;
        Some((MultiplexedConnection::clone(&link), self.seed.load(Ordering::Relaxed)))
    }

    fn link(&self) -> Result<MultiplexedConnection, NotKept> {
        let (link, _) =
            self.connection().ok_or_else(|| NotKept::Away("the store cannot be reached".into()))?;
        Ok(link)
    }

    /// To all other replicas; whoever does not hear it finds out alone.
    pub async fn tell(&self, backend: &str, open: Option<Duration>) {
        let Ok(mut link) = self.link() else { return };
        let news = News {
            from: self.id.clone(),
            backend: backend.to_owned(),
            open_ms: open.map(|open| open.as_millis() as u64),
        };
        let told: RedisResult<u64> = link.publish(&self.breakers, json(&news)).await;
        if let Err(error) = told {
            tracing::warn!(%error, backend, "the fleet was not told of a breaker");
        }
    }

    fn heard(&self, text: &str, hear: &impl Fn(&News)) {
        match serde_json::from_str::<News>(text) {
            Ok(news) if news.from != self.id => hear(&news),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what a replica says of a breaker cannot be read"),
        }
    }

    fn away(&self, error: &redis::RedisError) -> NotKept {
        self.up.store(false, Ordering::Relaxed);
        if !self.said_away.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the fleet's store is away: the last state serves, nothing is raised, kill switches are this replica's own");
        }
        self.leads_until.store(0, Ordering::Relaxed);
        self.link.store(None);
        NotKept::Unknown(error.to_string())
    }

    /// When the store shall refuse what it is told now: before this replica stops waiting for its answer.
    fn deadline(&self) -> u64 {
        let (at_beat, beat) = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        at_beat + (beat.elapsed() + ANSWER_MAX).as_millis() as u64 - DEADLINE_MARGIN
    }

    /// The state at `before` becomes this one. With `as_leader`, only while this replica holds the lease.
    pub async fn commit(
        &self,
        before: u64,
        state: &State,
        entry: &Entry,
        as_leader: bool,
    ) -> Result<(), NotKept> {
        if !self.is_up() {
            let why = match self.readable.load(Ordering::Relaxed) {
                true => "the fleet's store is away",
                false => "what the store holds cannot be read",
            };
            return Err(NotKept::Away(why.into()));
        }
        let mut link = self.link()?;
        let mut call = self.commit.prepare_invoke();
        self.keys.iter().for_each(|key| {
            call.key(key);
        });
        call.arg(before).arg(state.revision).arg(json(state)).arg(json(entry));
        call.arg(&entry.previous).arg(&entry.hash);
        call.arg(if as_leader { &self.id } else { "" }).arg(&self.channel).arg(self.deadline());
        let said: String = call.invoke_async(&mut link).await.map_err(|error| self.away(&error))?;
        verdict(&said)
    }

    /// State, and the entries behind a sequence.
    pub async fn fetch(&self, behind: u64) -> Result<Held, NotKept> {
        let mut link = self.link()?;
        let mut both = redis::pipe();
        both.atomic().hmget(&self.keys[0], &["state", "hash"]).lrange(&self.keys[1], behind as isize, -1);
        type Rows = ((Option<String>, Option<String>), Vec<String>);
        let told = both.query_async::<Rows>(&mut link).await;
        let ((state, last_hash), entries) = told.map_err(|error| self.away(&error))?;
        let unreadable = |error: serde_json::Error| {
            if self.readable.swap(false, Ordering::Relaxed) {
                tracing::error!(%error, "what the fleet's store holds cannot be read: the last state serves, and nothing is raised");
            }
            NotKept::Away(format!("what the store holds: {error}"))
        };
        let state = state.map_or(Ok(State::default()), |text| serde_json::from_str(&text));
        let entries: Result<Vec<Entry>, _> = entries.iter().map(|text| serde_json::from_str(text)).collect();
        let held =
            Held { state: state.map_err(unreadable)?, entries: entries.map_err(unreadable)?, last_hash };
        self.readable.store(true, Ordering::Relaxed);
        Ok(held)
    }

    /// Puts back what the store has lost; `found` is the revision it came back with.
    pub async fn restore(
        &self,
        found: u64,
        state: &State,
        last: &Last,
        entries: &[Entry],
    ) -> Result<(), NotKept> {
        let mut link = self.link()?;
        let mut call = self.restore.prepare_invoke();
        self.keys.iter().for_each(|key| {
            call.key(key);
        });
        call.arg(found).arg(state.revision).arg(json(state)).arg(&last.hash).arg(&self.channel);
        entries.iter().for_each(|entry| {
            call.arg(json(entry));
        });
        let said: String = call.invoke_async(&mut link).await.map_err(|error| self.away(&error))?;
        verdict(&said)
    }

    /// Beats, and passes pushes on, for as long as the process lives.
    pub async fn run(&self, hear: impl Fn(&News)) {
        let mut wait = RETRY[0];
        loop {
            let error = self.session(&mut wait, &hear).await;
            self.away(&error);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY[1]);
        }
    }

    /// One connection's life, and what ended it.
    async fn session(&self, wait: &mut Duration, hear: &impl Fn(&News)) -> redis::RedisError {
        let (mut connection, pushes) = match self.connect().await {
            Ok(both) => both,
            Err(error) => return error,
        };
        let mut pushes = pushes.into_on_message();
        self.link.store(Some(Arc::new(connection.clone())));
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                push = pushes.next() => match push {
                    Some(push) if push.get_channel_name() == self.breakers => {
                        push.get_payload::<String>().iter().for_each(|text| self.heard(text, hear));
                        false
                    }
                    Some(_) => true,
                    None => return std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
                },
                _ = beat.tick() => match self.beat(&mut connection).await {
                    Ok(changed) => changed,
                    Err(error) => return error,
                },
            };
            *wait = RETRY[0];
            if changed {
                self.changed.notify_one();
            }
        }
    }

    async fn connect(&self) -> RedisResult<(MultiplexedConnection, PubSub)> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let pushes = tokio::time::timeout(CONNECT_MAX, async {
            let mut pushes = self.client.get_async_pubsub().await?;
            pushes.subscribe(&[&self.channel, &self.breakers]).await?;
            RedisResult::Ok(pushes)
        });
        let silent = |_| redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let pushes = pushes.await.map_err(silent)??;
        let seed = self.key("seed", "hash");
        let mut both = redis::pipe();
        both.atomic().set_nx(&seed, rand::random::<u64>() >> 1).ignore().get(&seed);
        let (seed,): (u64,) = both.query_async(&mut connection).await?;
        self.seed.store(seed, Ordering::Relaxed);
        Ok((connection, pushes))
    }

    /// Whether there is something new, or the store has just come back.
    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let (rules_revision, state_revision) =
            self.here.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let replica = Replica {
            id: self.id.clone(),
            admin: self.admin.clone(),
            rules_revision,
            state_revision,
            leads: self.leads(),
        };
        let sent = self.born.elapsed();
        let mut call = self.beat.prepare_invoke();
        self.keys.iter().for_each(|key| {
            call.key(key);
        });
        call.arg(&self.id).arg(LEASE.as_millis() as u64).arg(json(&replica));
        type Rows = (String, u64, Vec<String>, u64);
        let (owner, revision, alive, clock): Rows = call.invoke_async(connection).await?;
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = (clock, Instant::now());
        let until = if owner == self.id { sent + LEASE - LEASE_MARGIN } else { Duration::ZERO };
        self.leads_until.store(until.as_millis() as u64, Ordering::Relaxed);
        let alive: Vec<Replica> = alive.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        self.size.store((alive.len() as u32).max(1), Ordering::Relaxed);
        *self.replicas.lock().unwrap_or_else(PoisonError::into_inner) = alive;
        // A call that was not answered in time has given the link up; it is there.
        self.link.store(Some(Arc::new(connection.clone())));
        let was_up = self.up.swap(true, Ordering::Relaxed);
        if !was_up {
            self.said_away.store(false, Ordering::Relaxed);
            tracing::info!("the fleet's store answers");
        }
        Ok(!was_up || !self.readable.load(Ordering::Relaxed) || revision != state_revision)
    }
}

fn verdict(said: &str) -> Result<(), NotKept> {
    match said {
        "kept" => Ok(()),
        "lease" => Err(NotKept::Lease),
        "late" => Err(NotKept::Away("the store took too long".into())),
        _ => Err(NotKept::Conflict),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
