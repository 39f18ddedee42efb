package bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;

/**
 * Runs one workload against an application under test (any language; see README.md, "Contract"), measures it from outside,
 * checks its output and prints one JSON line: Judge W1|W2|W3|W4|W5|W6.
 */
public final class Judge {
    static final String APP = env("APP_NAME", "app");
    static final String CMD = env("APP_CMD", null);
    static final long BROKER = Long.parseLong(env("BROKER_PID", "-1"));
    static final int POLL_MS = Integer.parseInt(env("POLL_MS", "50"));
    static final long LIMIT_MS = 1000L * Integer.parseInt(env("LIMIT_S", "540"));
    static final boolean CHECK = !env("CHECK", "").equals("no"); // the floor counts nothing
    static final String NOTE = env("NOTE", "");
    static final Path CACHE = Paths.get("target/run");
    static final ObjectMapper M = new ObjectMapper();

    static String env(String n, String d) {
        String v = System.getenv(n);
        return v == null || v.isEmpty() ? d : v;
    }

    static double r(double v, int digits) {
        double f = Math.pow(10, digits);
        return Math.round(v * f) / f;
    }

    // ---- the application process ------------------------------------------------------------------------------------
    static final class App implements AutoCloseable {
        final Process p;
        final long startMs, pid;
        final Map<String, String[]> facts = new ConcurrentHashMap<>();

        App(String id, String workload, String in, String out, int commitMs, boolean verify) throws IOException {
            Path log = CACHE.resolve("logs");
            Files.createDirectories(log);
            ProcessBuilder b = new ProcessBuilder("bash", "-c", "exec " + CMD);
            Map<String, String> e = b.environment();
            e.put("BENCH_WORKLOAD", workload);
            e.put("BENCH_BOOTSTRAP", Util.BOOTSTRAP);
            e.put("BENCH_APP_ID", id);
            e.put("BENCH_STATE_DIR", state(id).toString());
            e.put("BENCH_IN", in);
            e.put("BENCH_OUT", out);
            e.put("BENCH_COMMIT_MS", "" + commitMs);
            e.put("BENCH_THREADS", env("BENCH_THREADS", "2"));
            e.put("BENCH_VERIFY_STORE", verify ? "1" : "0");
            b.redirectError(ProcessBuilder.Redirect.appendTo(log.resolve(id + ".err").toFile()));
            startMs = System.currentTimeMillis();
            p = b.start();
            pid = p.pid();
            Thread t = new Thread(() -> {
                try (BufferedReader in0 = new BufferedReader(new InputStreamReader(p.getInputStream(), StandardCharsets.UTF_8));
                     PrintWriter o = new PrintWriter(new FileWriter(log.resolve(id + ".out").toFile(), true), true)) {
                    for (String l; (l = in0.readLine()) != null; ) {
                        o.println(l);
                        if (!l.startsWith("BENCH ")) continue;
                        String[] f = l.substring(6).trim().split(" ");
                        facts.put(f[0], f);
                    }
                } catch (IOException ignored) { /* process ended */ }
            });
            t.setDaemon(true);
            t.start();
        }

        String[] await(String fact, long ms) throws Exception {
            long end = System.currentTimeMillis() + ms;
            for (String[] f; ; Thread.sleep(1)) {
                if ((f = facts.get(fact)) != null) return f;
                if (facts.containsKey("error") || !p.isAlive()) throw new IllegalStateException("application failed before '" + fact + "'");
                if (System.currentTimeMillis() > end) throw new IllegalStateException("no '" + fact + "' within " + ms + " ms");
            }
        }

        long awaitMs(String fact, long ms) throws Exception { return Long.parseLong(await(fact, ms)[1]); }

        /** SIGTERM and wait; returns seconds taken, -1 if it had to be killed. */
        double stop() throws Exception {
            long t = System.nanoTime();
            p.destroy();
            if (!p.waitFor(90, TimeUnit.SECONDS)) {
                p.destroyForcibly().waitFor();
                return -1;
            }
            return r((System.nanoTime() - t) / 1e9, 2);
        }

        public void close() {
            if (p.isAlive()) p.destroyForcibly();
        }
    }

    static Path state(String id) { return CACHE.resolve("state").resolve(id); }

    static void rm(Path dir) throws IOException {
        if (!Files.exists(dir)) return;
        try (Stream<Path> s = Files.walk(dir)) {
            s.sorted(Comparator.reverseOrder()).forEach(x -> x.toFile().delete());
        }
    }

    /** Removes what earlier runs of this application left: internal topics, groups, local state. */
    static void purge(Admin a) throws Exception {
        String pre = "b-" + APP + "-";
        for (String t : a.listTopics().names().get()) if (t.startsWith(pre)) Util.delete(a, t);
        for (var g : a.listGroups().all().get())
            if (g.groupId().startsWith(pre)) {
                try {
                    a.deleteConsumerGroups(List.of(g.groupId())).all().get();
                } catch (ExecutionException ignored) { /* not empty yet or gone */ }
            }
        if (Files.exists(CACHE.resolve("state")))
            try (Stream<Path> s = Files.list(CACHE.resolve("state"))) {
                for (Path x : s.toList()) if (x.getFileName().toString().startsWith(pre)) rm(x);
            }
    }

    static String newId(String w) { return "b-" + APP + "-" + w + "-" + Long.toString(System.currentTimeMillis() / 1000, 36); }

    static Map<String, Object> head(String w) {
        Map<String, Object> j = new LinkedHashMap<>();
        j.put("workload", w);
        j.put("app", APP);
        if (!NOTE.isEmpty()) j.put("note", NOTE);
        j.put("at", java.time.Instant.now().truncatedTo(java.time.temporal.ChronoUnit.SECONDS).toString());
        return j;
    }

    /** ms for a fixed loop (100 million SplitMix64 steps) on two threads at once: how fast the machine is at this moment. */
    static double calib() throws Exception {
        double best = 0;
        for (int round = 0; round < 2; round++) { // the first one is for the JIT
            long t = System.nanoTime();
            Thread[] ts = new Thread[2];
            for (int i = 0; i < 2; i++) {
                ts[i] = new Thread(() -> {
                    Data.SplitMix64 r = new Data.SplitMix64(7);
                    long x = 0;
                    for (int k = 0; k < 100_000_000; k++) x ^= r.next();
                    if (x == 42) System.err.println();
                });
                ts[i].start();
            }
            for (Thread th : ts) th.join();
            best = r((System.nanoTime() - t) / 1e6, 0);
        }
        return best;
    }

    static void print(Map<String, Object> j) throws Exception {
        System.out.println(M.writeValueAsString(j));
        System.out.flush();
    }

    /** CPU seconds at one moment: application, broker, this process, whole machine. */
    static double[] cpus(long app) {
        return new double[] {Util.cpu(app), Util.cpu(BROKER), Util.cpu(ProcessHandle.current().pid()), Util.machineCpu(), System.nanoTime() / 1e9, Util.steal()};
    }

    static void cpuFields(Map<String, Object> j, double[] a, double[] b, double records) {
        double wall = b[4] - a[4];
        double app = b[0] - a[0], bro = b[1] - a[1], me = b[2] - a[2], all = b[3] - a[3];
        j.put("app_cpu_s", r(b[0], 2)); // since the process started
        j.put("app_cpu_s_per_million", r(b[0] / records * 1e6, 2));
        j.put("app_cpu_s_per_million_after_first", r(app / records * 1e6, 2));
        j.put("broker_cpu_s_per_million", r(bro / records * 1e6, 2));
        j.put("judge_cpu_s", r(me, 2));
        j.put("other_cpu_s", r(Math.max(0, all - app - bro - me), 2)); // CPU used by anything else on the machine meanwhile
        j.put("other_cpu_cores", r(Math.max(0, all - app - bro - me) / wall, 3));
        j.put("steal_s", r(b[5] - a[5], 2));
    }

    // ---- W1, W2, W3 ----------------------------------------------------------------------------------------------------
    static String bulk(Admin a, String w, String name, String[] in, String out) throws Exception {
        Gen.ensure(a, name);
        purge(a);
        Util.recreate(a, out);
        Map<TopicPartition, Long> ends = new HashMap<>();
        for (String t : in) ends.putAll(Util.ends(a, t));
        long n = Util.sum(ends);
        String id = newId(name);
        Map<String, Object> j = head(w);
        j.put("records", n);
        j.put("calib_before_ms", calib());
        try (App app = new App(id, name, String.join(",", in), out, 100, false)) {
            long first = app.awaitMs("first", 120_000);
            double[] c0 = cpus(app.pid);
            long done = 0, half = 0, halfAt = 0;
            while (done == 0) {
                Thread.sleep(POLL_MS);
                long sum = 0;
                boolean all = true;
                var m = a.listConsumerGroupOffsets(id).partitionsToOffsetAndMetadata().get();
                long now = System.currentTimeMillis();
                for (var e : ends.entrySet()) {
                    OffsetAndMetadata o = m.get(e.getKey());
                    long at = o == null ? 0 : o.offset();
                    sum += at;
                    if (at < e.getValue()) all = false;
                }
                if (half == 0 && sum * 2 >= n) { half = now; halfAt = sum; }
                if (all) done = now;
                if (app.facts.containsKey("error") || !app.p.isAlive()) throw new IllegalStateException("application failed, see target/run/logs/" + id + ".err");
                if (now - first > LIMIT_MS) throw new IllegalStateException("not done after " + LIMIT_MS + " ms, at " + sum + " of " + n);
            }
            double[] c1 = cpus(app.pid);
            double wall = (done - first) / 1000.0;
            j.put("wall_s", r(wall, 2));
            j.put("records_per_s", Math.round(n / wall));
            j.put("records_per_s_second_half", done > half ? Math.round((n - halfAt) * 1000.0 / (done - half)) : null);
            j.put("start_to_first_s", r((first - app.startMs) / 1000.0, 2));
            cpuFields(j, c0, c1, n);
            Thread.sleep(5000);
            j.put("rss_peak_mb", Util.memMb(app.pid, "VmHWM"));
            j.put("rss_idle_mb", Util.memMb(app.pid, "VmRSS"));
            j.put("stop_s", app.stop());
        }
        j.put("calib_after_ms", calib());
        try (Stream<Path> s = Files.walk(state(id))) {
            j.put("state_mb", r(s.filter(Files::isRegularFile).mapToLong(x -> x.toFile().length()).sum() / 1048576.0, 1));
        } catch (IOException ignored) { /* no state directory */ }
        if (CHECK) switch (name) {
            case "count": checkCount(j, out, Data.countN(), Data.SEED_COUNT); break;
            case "join": checkJoin(j, out); break;
            default: checkDedup(j, out);
        }
        print(j);
        return id;
    }

    interface Eat { void rec(ConsumerRecord<byte[], byte[]> r) throws Exception; }

    /** Every committed record of a topic, partition by partition in order. */
    static long readAll(String topic, Eat eat) throws Exception {
        long n = 0;
        try (KafkaConsumer<byte[], byte[]> c = Util.consumer(topic)) {
            Map<TopicPartition, Long> end = c.endOffsets(Util.parts(topic));
            long t = System.currentTimeMillis();
            while (true) {
                var rs = c.poll(Duration.ofMillis(200));
                for (var x : rs) { eat.rec(x); n++; }
                boolean all = true;
                for (var e : end.entrySet()) if (c.position(e.getKey()) < e.getValue()) all = false;
                if (all) return n;
                if (!rs.isEmpty()) t = System.currentTimeMillis();
                else if (System.currentTimeMillis() - t > 30_000) return n;
            }
        }
    }

    static void checkCount(Map<String, Object> j, String out, int n, long seed) throws Exception {
        int keys = Data.countKeys(n);
        int[] want = new int[keys], got = new int[keys];
        Data.count(n, seed, keys, (i, k, v, ts) -> want[Integer.parseInt(k.substring(7))]++);
        long[] bad = {0};
        long recs = readAll(out, x -> {
            int k = Integer.parseInt(new String(x.key(), 7, x.key().length - 7, StandardCharsets.UTF_8));
            int v = Integer.parseInt(new String(x.value(), StandardCharsets.UTF_8));
            if (v != got[k] + 1) bad[0]++;
            got[k] = v;
        });
        long sum = Arrays.stream(got).asLongStream().sum(), distinct = Arrays.stream(want).filter(v -> v > 0).count();
        j.put("output_records", recs);
        j.put("final_sum", sum);
        j.put("distinct_keys", distinct);
        j.put("correct", Arrays.equals(want, got) && bad[0] == 0 && recs == n && sum == n);
    }

    static void checkJoin(Map<String, Object> j, String out) throws Exception {
        Data.Join d = new Data.Join(Data.joinN());
        BitSet seen = new BitSet(d.n);
        long[] bad = {0};
        long recs = readAll(out, x -> {
            JsonNode v = M.readTree(x.value());
            String id = new String(x.key(), StandardCharsets.UTF_8);
            int i = Integer.parseInt(id.substring(6));
            boolean ok = !seen.get(i) && d.delay[i] >= 0 && v.size() == 8
                && v.path("orderId").asText().equals(id)
                && v.path("userId").asText().equals("user-" + Data.pad(d.user[i], 8))
                && v.path("amount").asLong(-1) == d.amount[i]
                && v.path("orderedAt").asLong(-1) == Data.T0 + i
                && v.path("paymentId").asText().equals(d.paymentId(i))
                && v.path("method").asText().equals(Data.Join.method(i))
                && v.path("paid").asLong(-1) == d.amount[i]
                && v.path("paidAt").asLong(-1) == d.paidAt(i);
            if (!ok) bad[0]++;
            seen.set(i);
        });
        j.put("output_records", recs);
        j.put("expected_joins", d.payments);
        j.put("correct", bad[0] == 0 && recs == d.payments && seen.cardinality() == d.payments);
    }

    static void checkDedup(Map<String, Object> j, String out) throws Exception {
        Map<UUID, Integer> want = new HashMap<>();
        Data.dedup(Data.dedupN(), (i, k, v, ts) -> want.putIfAbsent(id(k), i));
        int unique = want.size();
        long[] bad = {0};
        long recs = readAll(out, x -> {
            Integer seq = want.remove(id(new String(x.key(), StandardCharsets.UTF_8)));
            String v = new String(x.value(), StandardCharsets.UTF_8);
            if (seq == null || v.length() != 150 || !v.contains("\"seq\":" + seq + ",")) bad[0]++;
        });
        j.put("output_records", recs);
        j.put("expected_unique", unique);
        j.put("correct", bad[0] == 0 && want.isEmpty() && recs == unique);
    }

    static UUID id(String s) { // UUID.fromString, quicker
        return new UUID(Long.parseUnsignedLong(s.substring(0, 8) + s.substring(9, 13) + s.substring(14, 18), 16),
            Long.parseUnsignedLong(s.substring(19, 23) + s.substring(24), 16));
    }

    // ---- W4 --------------------------------------------------------------------------------------------------------------
    static void latency(Admin a, int commitMs) throws Exception {
        int rate = Data.env("RATE", 2000), warm = Data.env("WARM_S", 10) * rate, n = warm + Data.env("SECONDS_N", 30) * rate;
        int keys = 1_000_000;
        purge(a);
        Util.recreate(a, "bench-lat-in", "bench-lat-out");
        String id = newId("lat");
        Map<String, Object> j = head("W4");
        j.put("commit_interval_ms", commitMs);
        j.put("calib_before_ms", calib());
        ConcurrentHashMap<Long, Integer> index = new ConcurrentHashMap<>(n * 2);
        long[] sent = new long[n], got = new long[n];
        try (App app = new App(id, "count", "bench-lat-in", "bench-lat-out", commitMs, false)) {
            app.awaitMs("running", 120_000);
            Thread.sleep(2000);
            long[] lag = {0};
            double[][] c = new double[2][];
            Thread prod = new Thread(() -> {
                try (KafkaProducer<byte[], byte[]> p = Util.producer(Map.of("linger.ms", 0))) {
                    Data.SplitMix64 r = new Data.SplitMix64(4);
                    int[] times = new int[keys];
                    p.partitionsFor("bench-lat-in");
                    long t0 = System.nanoTime();
                    for (int i = 0; i < n; i++) {
                        int k = r.below(keys);
                        String key = Data.couponKey(k);
                        byte[] kb = Data.utf8(key), vb = Data.utf8(Data.couponValue(key, r.below(100_000_000), System.currentTimeMillis()));
                        index.put(k * 1000L + ++times[k], i);
                        long due = t0 + i * (1_000_000_000L / rate);
                        while (System.nanoTime() < due) LockSupport.parkNanos(Math.max(1, due - System.nanoTime()));
                        if (i == warm) c[0] = cpus(app.pid);
                        sent[i] = System.nanoTime();
                        if (i >= warm) lag[0] = Math.max(lag[0], sent[i] - due);
                        p.send(new ProducerRecord<>("bench-lat-in", kb, vb));
                    }
                    p.flush();
                    c[1] = cpus(app.pid);
                }
            });
            int recs = 0;
            long bad = 0;
            try (KafkaConsumer<byte[], byte[]> cons = Util.consumer("bench-lat-out")) {
                cons.poll(Duration.ofMillis(500));
                prod.start();
                long last = System.nanoTime();
                while (recs < n && System.nanoTime() - last < 30e9) {
                    var rs = cons.poll(Duration.ofMillis(200));
                    long now = System.nanoTime();
                    for (var x : rs) {
                        long k = Long.parseLong(new String(x.key(), 7, 7, StandardCharsets.UTF_8));
                        Integer i = index.get(k * 1000L + Integer.parseInt(new String(x.value(), StandardCharsets.UTF_8)));
                        if (i == null || got[i] != 0) bad++;
                        else { got[i] = now; recs++; }
                        last = now;
                    }
                }
                for (var x : cons.poll(Duration.ofMillis(1000))) bad++;
            }
            prod.join();
            long[] l = new long[n - warm];
            long lost = 0, warmMax = 0;
            for (int i = 0; i < n; i++) {
                if (got[i] == 0) lost++;
                long d = got[i] == 0 ? Long.MAX_VALUE : got[i] - sent[i];
                if (i < warm) warmMax = Math.max(warmMax, d);
                else l[i - warm] = d;
            }
            Arrays.sort(l);
            j.put("rate", rate);
            j.put("records", l.length);
            for (double q : new double[] {0.5, 0.95, 0.99, 0.999}) {
                String s = q == 0.5 ? "p50" : q == 0.95 ? "p95" : q == 0.99 ? "p99" : "p999";
                j.put(s + "_ms", r(l[(int) Math.min(l.length - 1, Math.ceil(q * l.length) - 1)] / 1e6, 2));
            }
            j.put("max_ms", r(l[l.length - 1] / 1e6, 2));
            j.put("warmup_max_ms", r(warmMax / 1e6, 2));
            j.put("send_lag_max_ms", r(lag[0] / 1e6, 2));
            double wall = c[1][4] - c[0][4];
            j.put("app_cpu_cores", r((c[1][0] - c[0][0]) / wall, 3));
            j.put("broker_cpu_cores", r((c[1][1] - c[0][1]) / wall, 3));
            j.put("judge_cpu_cores", r((c[1][2] - c[0][2]) / wall, 3));
            j.put("other_cpu_cores", r(Math.max(0, c[1][3] - c[0][3] - (c[1][0] - c[0][0]) - (c[1][1] - c[0][1]) - (c[1][2] - c[0][2])) / wall, 3));
            j.put("steal_s", r(c[1][5] - c[0][5], 2));
            j.put("rss_peak_mb", Util.memMb(app.pid, "VmHWM"));
            j.put("stop_s", app.stop());
            j.put("lost", lost);
            j.put("correct", bad == 0 && lost == 0);
        }
        print(j);
    }

    // ---- W5 --------------------------------------------------------------------------------------------------------------
    static void restore(Admin a) throws Exception {
        Path note = CACHE.resolve(APP + "-w1.appid");
        int n = Data.countN();
        String id = Files.exists(note) ? Files.readString(note).trim() : "";
        if (!id.endsWith(" " + n) || a.listTopics().names().get().stream().noneMatch(t -> t.startsWith(id.split(" ")[0] + "-"))) w1(a);
        String app = Files.readString(note).trim().split(" ")[0];
        for (int i = 0; ; i++) { // nobody of the previous run may be left in the group
            GroupState s = a.describeConsumerGroups(List.of(app)).describedGroups().get(app).get().groupState();
            if (s == GroupState.EMPTY || s == GroupState.DEAD) break;
            if (i > 600) throw new IllegalStateException("group " + app + " is still " + s);
            Thread.sleep(200);
        }
        rm(state(app));
        Map<String, Object> j = head("W5");
        int[] want = new int[Data.countKeys(n)];
        Data.count(n, Data.SEED_COUNT, want.length, (i, k, v, ts) -> want[Integer.parseInt(k.substring(7))]++);
        long distinct = Arrays.stream(want).filter(v -> v > 0).count();
        try (App p = new App(app, "count", "bench-count-in", "bench-count-out", 100, true)) {
            double[] c0 = cpus(p.pid);
            long start = p.awaitMs("start", 60_000), running = p.awaitMs("running", LIMIT_MS);
            String[] f = p.await("restored", 60_000);
            double[] c1 = cpus(p.pid);
            long end = Math.max(running, Long.parseLong(f[1])), recs = Long.parseLong(f[2]);
            String[] s = p.await("store", 120_000);
            j.put("restore_s", r((end - start) / 1000.0, 2));
            j.put("process_start_to_running_s", r((end - p.startMs) / 1000.0, 2));
            j.put("records_restored", recs);
            j.put("records_per_s", Math.round(recs * 1000.0 / (end - start)));
            cpuFields(j, c0, c1, recs);
            j.put("rss_peak_mb", Util.memMb(p.pid, "VmHWM"));
            j.put("stop_s", p.stop());
            j.put("store_entries", Long.parseLong(s[1]));
            j.put("store_sum", Long.parseLong(s[2]));
            j.put("input_reprocessed", p.facts.containsKey("first"));
            j.put("correct", Long.parseLong(s[1]) == distinct && Long.parseLong(s[2]) == n && !p.facts.containsKey("first"));
        }
        print(j);
    }

    // ---- W6 --------------------------------------------------------------------------------------------------------------
    static void footprint(Admin a) throws Exception {
        purge(a);
        Util.recreate(a, "bench-one-in", "bench-one-out");
        String key = Data.couponKey(0);
        try (KafkaProducer<byte[], byte[]> p = Util.producer(Map.of())) {
            p.send(new ProducerRecord<>("bench-one-in", null, Data.T0, Data.utf8(key), Data.utf8(Data.couponValue(key, 0, Data.T0)))).get();
        }
        Map<String, Object> j = head("W6");
        try (KafkaConsumer<byte[], byte[]> c = Util.consumer("bench-one-out")) {
            c.poll(Duration.ofMillis(1000));
            long t = System.nanoTime();
            double at = 0;
            String v = null;
            int recs = 0;
            try (App app = new App(newId("one"), "count", "bench-one-in", "bench-one-out", 100, false)) {
                while (at == 0) {
                    for (var x : c.poll(Duration.ofMillis(100))) {
                        if (recs++ == 0) at = (System.nanoTime() - t) / 1e9;
                        v = new String(x.value(), StandardCharsets.UTF_8);
                    }
                    if (System.nanoTime() - t > 120e9) throw new IllegalStateException("no output");
                }
                j.put("start_to_first_output_s", r(at, 3));
                j.put("start_to_running_s", r((app.awaitMs("running", 60_000) - app.startMs) / 1000.0, 3));
                j.put("app_cpu_s", Util.cpu(app.pid));
                long until = System.nanoTime() + 10_000_000_000L;
                double c0 = Util.cpu(app.pid);
                while (System.nanoTime() < until) recs += c.poll(Duration.ofMillis(500)).count();
                j.put("idle_cpu_cores", r((Util.cpu(app.pid) - c0) / 10, 3));
                j.put("rss_peak_mb", Util.memMb(app.pid, "VmHWM"));
                j.put("rss_idle_mb", Util.memMb(app.pid, "VmRSS"));
                j.put("threads", Util.number(app.pid, "Threads"));
                j.put("stop_s", app.stop());
            }
            j.put("correct", recs == 1 && "1".equals(v));
        }
        print(j);
    }

    static void w1(Admin a) throws Exception {
        String id = bulk(a, "W1", "count", new String[] {"bench-count-in"}, "bench-count-out");
        Files.writeString(CACHE.resolve(APP + "-w1.appid"), id + " " + Data.countN() + "\n");
    }

    // ---- summary of a results file: median (min-max) per workload and field, over the undisturbed runs if there are any ----------
    static final double DISTURBED = 0.15;

    static void summary(String file) throws Exception {
        Map<String, List<JsonNode>> by = new TreeMap<>();
        for (String l : Files.readAllLines(Paths.get(file))) {
            if (!l.startsWith("{")) continue;
            JsonNode v = M.readTree(l);
            String w = v.path("workload").asText() + (v.has("commit_interval_ms") ? "@" + v.get("commit_interval_ms").asInt() : "") + " " + v.path("app").asText()
                + (v.has("note") ? " (" + v.get("note").asText() + ")" : "");
            by.computeIfAbsent(w, x -> new ArrayList<>()).add(v);
        }
        for (var e : by.entrySet()) {
            List<JsonNode> all = e.getValue(), quiet = all.stream().filter(x -> x.path("other_cpu_cores").asDouble(0) <= DISTURBED).toList();
            List<JsonNode> use = quiet.isEmpty() ? all : quiet;
            System.out.println(e.getKey() + ": " + all.size() + " runs, " + quiet.size() + " undisturbed"
                + (all.stream().allMatch(x -> x.path("correct").asBoolean()) ? ", all correct" : ", NOT ALL CORRECT"));
            Set<String> names = new LinkedHashSet<>();
            for (JsonNode x : use) x.fieldNames().forEachRemaining(names::add);
            for (String f : names) {
                double[] v = use.stream().filter(x -> x.path(f).isNumber()).mapToDouble(x -> x.get(f).asDouble()).sorted().toArray();
                if (v.length == 0 || f.equals("commit_interval_ms")) continue;
                double med = v.length % 2 == 1 ? v[v.length / 2] : (v[v.length / 2 - 1] + v[v.length / 2]) / 2;
                System.out.println("  " + f + " " + n(med) + (v[0] == v[v.length - 1] ? "" : " (" + n(v[0]) + "-" + n(v[v.length - 1]) + ")"));
            }
        }
    }

    static String n(double v) { return v == Math.rint(v) ? Long.toString((long) v) : Double.toString(r(v, 3)); }

    public static void main(String[] x) throws Exception {
        if (x[0].equals("summary")) {
            summary(x[1]);
            return;
        }
        try (Admin a = Util.admin()) {
            switch (x[0]) {
                case "W1": w1(a); break;
                case "W2": bulk(a, "W2", "join", new String[] {"bench-orders-in", "bench-payments-in"}, "bench-join-out"); break;
                case "W3": bulk(a, "W3", "dedup", new String[] {"bench-dedup-in"}, "bench-dedup-out"); break;
                case "W4": latency(a, Data.env("BENCH_COMMIT_MS", 100)); break;
                case "W5": restore(a); break;
                case "W6": footprint(a); break;
                case "purge": purge(a); break;
                default: throw new IllegalArgumentException(x[0]);
            }
        }
    }
}
