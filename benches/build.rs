//! How the program that is measured on Kafka is linked: see `leaves_out_told_leaders` in `src/log/kafka/native/leaders.rs` of `millstream`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bin=bench-app=-Wl,--wrap=rd_kafka_metadata_update_op");
    }
}
