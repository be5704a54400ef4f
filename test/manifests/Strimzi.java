import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.MapperFeature;
import com.fasterxml.jackson.databind.MappingIterator;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.cfg.CoercionAction;
import com.fasterxml.jackson.databind.cfg.CoercionInputShape;
import com.fasterxml.jackson.databind.introspect.Annotated;
import com.fasterxml.jackson.databind.introspect.JacksonAnnotationIntrospector;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.type.LogicalType;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import io.strimzi.api.kafka.model.kafka.Kafka;
import io.strimzi.api.kafka.model.nodepool.KafkaNodePool;
import io.strimzi.api.kafka.model.user.KafkaUser;
import java.io.File;
import java.util.Collection;
import java.util.Map;

/**
 * For each file a line, "good" or what is wrong with it. Reads manifests into the classes of Strimzi's API, from which its definitions
 * are generated: no field that these do not have, none missing that they want.
 */
class Strimzi {
    static final Map<String, Class<?>> KINDS = Map.of("Kafka", Kafka.class, "KafkaNodePool", KafkaNodePool.class, "KafkaUser", KafkaUser.class);

    public static void main(String[] args) throws Exception {
        var yaml = new ObjectMapper(new YAMLFactory());
        var strict = JsonMapper.builder()
                .enable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
                .disable(DeserializationFeature.ACCEPT_FLOAT_AS_INT)
                .disable(MapperFeature.ALLOW_COERCION_OF_SCALARS) // "3" is no number
                .withCoercionConfig(LogicalType.Textual, c -> { // and 3 no text
                    c.setCoercion(CoercionInputShape.Integer, CoercionAction.Fail);
                    c.setCoercion(CoercionInputShape.Float, CoercionAction.Fail);
                    c.setCoercion(CoercionInputShape.Boolean, CoercionAction.Fail);
                })
                .build();
        // The classes keep what they do not know for a later version; without that it is an error.
        strict.setAnnotationIntrospector(new JacksonAnnotationIntrospector() {
            @Override
            public Boolean hasAnySetter(Annotated a) {
                return false;
            }
        });
        for (String file : args) {
            String verdict = "good";
            try (MappingIterator<JsonNode> documents = yaml.readerFor(JsonNode.class).readValues(new File(file))) {
                while (documents.hasNext()) {
                    read(strict, documents.next());
                }
            } catch (Exception e) {
                verdict = e.toString();
            }
            System.out.println(verdict.lines().findFirst().orElse("bad"));
        }
    }

    static void read(ObjectMapper mapper, JsonNode document) throws Exception {
        Class<?> kind = KINDS.get(document.path("kind").asText());
        if (kind == null) {
            throw new IllegalArgumentException("unknown kind " + document.path("kind"));
        }
        String[] api = document.path("apiVersion").asText().split("/");
        if (api.length != 2 || !kind.getField("RESOURCE_GROUP").get(null).equals(api[0]) || !((Collection<?>) kind.getField("VERSIONS").get(null)).contains(api[1])) {
            throw new IllegalArgumentException("unknown version " + document.path("apiVersion"));
        }
        complete(mapper, mapper.treeToValue(document, kind), document, document.path("kind").asText());
    }

    /** What is marked as required is there, and what is there was understood: a value that an enumeration does not have is read as null. */
    static void complete(ObjectMapper mapper, Object value, JsonNode node, String where) {
        if (value instanceof Collection<?> list) {
            int i = 0;
            for (Object item : list) {
                complete(mapper, item, node.get(i), where + "[" + i++ + "]");
            }
        }
        if (value == null || !node.isObject() || value instanceof Map || !value.getClass().getName().startsWith("io.strimzi.")) {
            return;
        }
        JavaType type = mapper.constructType(value.getClass());
        for (var property : mapper.getSerializationConfig().introspect(type).findProperties()) {
            String name = where + "." + property.getName();
            JsonNode inner = node.get(property.getName());
            if (inner == null && property.isRequired()) {
                throw new IllegalArgumentException(name + " is required");
            }
            if (inner == null || inner.isNull() || property.getAccessor() == null) {
                continue;
            }
            property.getAccessor().fixAccess(true);
            Object field = property.getAccessor().getValue(value);
            if (field == null || field instanceof Collection<?> list && list.contains(null)) {
                throw new IllegalArgumentException(name + " cannot be " + inner);
            }
            complete(mapper, field, inner, name);
        }
    }
}
