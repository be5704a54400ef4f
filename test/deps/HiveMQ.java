import com.hivemq.embedded.EmbeddedHiveMQ;
import java.nio.file.Path;

/** HiveMQ with the configuration in FOLDER/conf. It ends when standard input does. */
class HiveMQ {
    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        EmbeddedHiveMQ broker = EmbeddedHiveMQ.builder()
                .withConfigurationFolder(folder.resolve("conf")).withDataFolder(folder.resolve("data"))
                .withExtensionsFolder(folder.resolve("extensions")).build();
        broker.start().join();
        while (System.in.read() >= 0) { }
        broker.stop().join();
        System.exit(0);
    }
}
