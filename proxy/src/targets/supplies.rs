//! What all backends share: the client, the resolver, credentials and settings of AWS, metrics.
//!
//! Input: made once at boot. Output: shared by reference. Must not: change.

use crate::aws::credentials::CredentialStore;
use crate::aws::endpoint::AwsSettings;
use crate::aws::secrets::SecretsManager;
use crate::caps::Caps;
use crate::client::dns::{Resolver, Zone};
use crate::client::exchange::Client;
use crate::metrics::Metrics;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

pub struct Supplies {
    pub client: Arc<Client>,
    pub resolver: Arc<Resolver>,
    pub credentials: Arc<CredentialStore>,
    pub aws: AwsSettings,
    pub secrets: Arc<SecretsManager>,
    pub metrics: Arc<Metrics>,
    pub caps: Caps,
    /// For breakers that are shared; set where there is a fleet.
    pub news: OnceLock<UnboundedSender<BreakerNews>>,
}

/// A backend whose breaker has opened for so long, or (`None`) closed.
pub type BreakerNews = (Box<str>, Option<Duration>);

impl Supplies {
    /// Call inside a tokio runtime.
    pub fn new(aws: &AwsSettings, zones: &[Zone], metrics: Arc<Metrics>, pool: usize) -> Supplies {
        let client = Arc::new(Client::new(pool));
        let resolver = Arc::new(Resolver::new(zones));
        let region = aws.region.clone();
        let credentials = CredentialStore::new(client.clone(), resolver.clone(), region, metrics.clone());
        let (credentials, aws) = (Arc::new(credentials), aws.clone());
        let secrets = SecretsManager::new(client.clone(), resolver.clone(), credentials.clone(), aws.clone());
        Supplies {
            client,
            resolver,
            credentials,
            aws,
            secrets: Arc::new(secrets),
            metrics,
            caps: Caps::default(),
            news: OnceLock::new(),
        }
    }
}
