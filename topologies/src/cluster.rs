//! The shop in several processes on Kafka: `shop worker` runs topologies, `shop api` serves clients, `shop cdc` relays an outbox, `shop sink`
//! delivers events to somebody else. They share nothing but the cluster.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream::log::kafka::{self, KafkaConfig, KafkaLog, Mechanism};
use millstream::serve::application_routes;
use millstream::{App, Config, Standbys, Topology};
use uuid::Uuid;

use crate::api::{Api, routes};
use crate::cli::{ApiServer, Cdc, Cluster, GroupProtocol, KafkaMechanism, Sink, Worker};
use crate::serving::{self, Error, Front, Parts, misconfigured};
use crate::topology::{self, Settings};
use crate::{arenas, metrics, outbox, restoring};

/// Standbys of a worker are copies to take over from, and answer for a task only while it has no owner: they need not be fresher.
const STANDBYS_WITHIN: Duration = Duration::from_millis(100);

/// Runs topologies until a signal comes.
///
/// # Errors
/// See [`Error`].
pub fn work(worker: &Worker) -> Result<(), Error> {
    serving::run(&worker.logging, async {
        let settings = Settings { payment_timeout_ms: worker.payment_timeout.as_millis() as i64 };
        let topology = topology::shared(&settings).map_err(misconfigured)?;
        let sub_topologies = chosen(&worker.topologies)?;
        let front = Front::open(&worker.interface).await?;
        let advertise = worker.advertise.clone().unwrap_or_else(|| front.address().to_string());
        let mut config = Config {
            state_memory_bytes: worker.memory_budget,
            sub_topologies,
            standbys: Standbys::Each(worker.standbys),
            feeds: false,
            advertise: Some(advertise),
            restore_listener: restoring::bar(),
            ..Config::shared(&worker.state)
        };
        if let Some(threads) = worker.threads {
            config.threads = threads.get();
        }
        let app = start(topology, config, &worker.cluster, |kafka| kafka.follow_within(STANDBYS_WITHIN)).await?;
        let handle = app.handle();
        let served = front.serve(&handle, application_routes(&handle), Parts::none()).await;
        drop(handle);
        serving::stop(app, served).await
    })
}

/// Serves clients until a signal comes. It follows the state of all tasks, so it answers every query by itself.
///
/// # Errors
/// See [`Error`].
pub fn serve_api(api_server: &ApiServer) -> Result<(), Error> {
    serving::run(&api_server.logging, async {
        let gate = api_server.gate.settings().map_err(Error::Misconfigured)?;
        let database = api_server.database.address().map_err(Error::Misconfigured)?;
        let retention = api_server.retention.outbox_retention.0;
        let relay = api_server.database.cdc_name.clone();
        let outbox = database.map(|address| outbox::Settings { address, relay, retention });
        let topology = topology::shared(&Settings::default()).map_err(misconfigured)?;
        let front = Front::open(&api_server.interface).await?;
        let config = Config {
            state_memory_bytes: api_server.memory_budget,
            threads: 0,
            standbys: Standbys::All,
            advertise: Some(front.address().to_string()),
            ..Config::shared(&api_server.state)
        };
        let app = start(topology, config, &api_server.cluster, |kafka| kafka).await?;
        let handle = app.handle();
        let mut parts = Parts::none();
        let home = parts.home(&handle, outbox);
        let gate = parts.gate(&handle, gate).await?;
        let api = Api::new(&handle, api_server.interface.lang, home, gate);
        metrics::register(&api, &mut handle.registry().write());
        let served = front.serve(&handle, routes(&api), parts).await;
        drop((api, handle));
        serving::stop(app, served).await
    })
}

/// Relays an outbox until a signal comes.
///
/// # Errors
/// See [`Error`].
pub fn relay(cdc: &Cdc) -> Result<(), Error> {
    arenas::share();
    serving::run(&cdc.logging, async {
        let outbox = cdc.outbox.settings().map_err(Error::Misconfigured)?;
        let outbox = outbox.ok_or_else(|| misconfigured("--mysql is missing: the database whose outbox is relayed"))?;
        let topology = topology::shared(&Settings::default()).map_err(misconfigured)?;
        let front = Front::open(&cdc.interface).await?;
        let config =
            Config { threads: 0, feeds: false, advertise: Some(front.address().to_string()), ..Config::shared(&cdc.state) };
        let writer = format!("shop-cdc-{}", outbox.name);
        let app = start(topology, config, &cdc.cluster, |kafka| kafka.exclusive_writer(writer)).await?;
        let handle = app.handle();
        let mut parts = Parts::none();
        parts.relay(&handle, outbox);
        let served = front.serve(&handle, application_routes(&handle), parts).await;
        drop(handle);
        serving::stop(app, served).await
    })
}

/// Delivers events until a signal comes.
///
/// # Errors
/// See [`Error`].
pub fn deliver(sink: &Sink) -> Result<(), Error> {
    serving::run(&sink.logging, async {
        let settings = sink.delivery.settings("--url", &sink.url).map_err(Error::Misconfigured)?;
        let topology = topology::shared(&Settings::default()).map_err(misconfigured)?;
        let front = Front::open(&sink.interface).await?;
        let config =
            Config { threads: 0, feeds: false, advertise: Some(front.address().to_string()), ..Config::shared(&sink.state) };
        let app = start(topology, config, &sink.cluster, |kafka| kafka).await?;
        let handle = app.handle();
        let mut parts = Parts::none();
        parts.deliver(&handle, settings);
        let served = front.serve(&handle, application_routes(&handle), parts).await;
        drop(handle);
        serving::stop(app, served).await
    })
}

/// The sub-topologies of the topologies of these names; all if none is named.
fn chosen(topologies: &[String]) -> Result<Option<Vec<String>>, Error> {
    let mut chosen = Vec::new();
    for name in topologies {
        let known = topology::named(name)
            .ok_or_else(|| misconfigured(format!("--topologies: there is no topology {name:?}, only {}", topology::names())))?;
        chosen.extend(known.map_err(misconfigured)?.sub_topologies().map(str::to_owned));
    }
    Ok((!topologies.is_empty()).then_some(chosen))
}

/// Joins the cluster and starts, away from the threads that serve: it may take a while.
async fn start(
    topology: Topology,
    config: Config,
    cluster: &Cluster,
    adapt: impl FnOnce(KafkaConfig) -> KafkaConfig,
) -> Result<App, Error> {
    let kafka = adapt(kafka_config(cluster)?.instance(instance(&config.data)?));
    let started = tokio::task::spawn_blocking(move || {
        let log = KafkaLog::open(kafka).map_err(misconfigured)?;
        App::start_on(topology, config, Arc::new(log)).map_err(misconfigured)
    });
    started.await.map_err(misconfigured)?
}

/// What this process is called among others, the same after a restart: kept beside its state.
fn instance(state: &Path) -> Result<String, Error> {
    let file = state.join("instance");
    let failed = |error| misconfigured(format!("{} cannot be used: {error}", file.display()));
    match fs::read_to_string(&file) {
        Ok(known) if !known.trim().is_empty() => return Ok(known.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let new = Uuid::new_v4().simple().to_string();
    fs::create_dir_all(state).map_err(failed)?;
    fs::write(&file, &new).map_err(failed)?;
    Ok(new)
}

/// How the cluster of the command line is reached.
///
/// # Errors
/// If what it says is wrong, or a file cannot be read.
pub fn kafka_config(cluster: &Cluster) -> Result<KafkaConfig, Error> {
    let protocol = match cluster.group_protocol {
        GroupProtocol::Auto => kafka::GroupProtocol::Auto,
        GroupProtocol::Classic => kafka::GroupProtocol::Classic,
        GroupProtocol::Consumer => kafka::GroupProtocol::Consumer,
    };
    let mut kafka = KafkaConfig::new(&cluster.brokers).group_protocol(protocol).session_timeout(cluster.session_timeout);
    if cluster.kafka_tls {
        kafka = kafka.tls(cluster.kafka_ca.as_deref());
    }
    if let (Some(user), Some(file)) = (&cluster.kafka_user, &cluster.kafka_password_file) {
        let password = fs::read_to_string(file)
            .map_err(|error| misconfigured(format!("--kafka-password-file {} cannot be read: {error}", file.display())))?;
        let mechanism = match cluster.kafka_mechanism {
            KafkaMechanism::Plain => Mechanism::Plain,
            KafkaMechanism::ScramSha256 => Mechanism::ScramSha256,
            KafkaMechanism::ScramSha512 => Mechanism::ScramSha512,
        };
        kafka = kafka.sasl(mechanism, user, password.trim_end());
    }
    for property in &cluster.kafka_property {
        let (name, value) =
            property.split_once('=').ok_or_else(|| misconfigured(format!("--kafka-property {property:?} is not NAME=VALUE")))?;
        kafka = kafka.property(name, value);
    }
    if let Some(copies) = cluster.replication_factor {
        kafka = kafka.replication_factor(copies.get());
    }
    Ok(kafka)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_shop_leaves_out_what_brokers_tell_of_leaders() {
        assert!(millstream::log::kafka::leaves_out_told_leaders());
    }
}
