//! Both airlines and the control port as services of a pingora server.
//!
//! Input: three addresses. Output: services to add. Must not: start anything itself.

use crate::control::Control;
use crate::faults::Faults;
use crate::function_url::FunctionUrls;
use crate::monolith::Monolith;
use crate::store::Store;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::listening::Service;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub legacy: SocketAddr,
    pub serverless: SocketAddr,
    pub control: SocketAddr,
}

pub fn services(addresses: Addresses) -> Vec<Box<dyn ServiceWithDependents>> {
    let store = Arc::new(Store::new());
    let (legacy, serverless) = (Arc::new(Faults::default()), Arc::new(Faults::default()));
    let monolith = Monolith { store: store.clone(), faults: legacy.clone() };
    let functions =
        FunctionUrls { store: store.clone(), faults: serverless.clone(), calls: Default::default() };
    let control = Control { store, legacy, serverless };
    vec![
        service("legacy airline", monolith, addresses.legacy),
        service("serverless airline", functions, addresses.serverless),
        service("airline control", control, addresses.control),
    ]
}

fn service<S: ServeHttp + Send + Sync + 'static>(
    name: &str,
    app: S,
    address: SocketAddr,
) -> Box<dyn ServiceWithDependents> {
    let mut service = Service::new(name.to_owned(), app);
    service.threads = Some(1);
    service.add_tcp(&address.to_string());
    Box::new(service)
}
